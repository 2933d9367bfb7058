-- The hours of which readings were taken back.
SELECT sensor_id, date_trunc('hour', ts, 'UTC') FROM taken_raw_particulate
UNION
SELECT sensor_id, date_trunc('hour', ts, 'UTC') FROM taken_raw_climate
