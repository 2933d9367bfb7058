-- Of which sensors readings were taken back, and from when to when.
SELECT sensor_id, min(ts), max(ts)
  FROM (SELECT sensor_id, ts FROM taken_raw_particulate
        UNION ALL
        SELECT sensor_id, ts FROM taken_raw_climate) AS taken
 GROUP BY sensor_id
