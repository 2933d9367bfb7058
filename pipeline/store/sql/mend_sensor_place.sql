-- Who stood where, worked out anew for some sensors, as far as the place is known.
INSERT INTO air.sensor_place (sensor_id, location_key, first_ts, last_ts)
SELECT sensor_id, location_key, min(ts), max(ts)
  FROM (SELECT sensor_id, location_key, ts FROM air.raw_particulate
         WHERE sensor_id = ANY (%(sensors)s::integer[])
        UNION ALL
        SELECT sensor_id, location_key, ts FROM air.raw_climate
         WHERE sensor_id = ANY (%(sensors)s::integer[])) AS readings
  JOIN air.location USING (location_key)
  JOIN air.sensor USING (sensor_id)
 GROUP BY sensor_id, location_key
 ORDER BY sensor_id, location_key
