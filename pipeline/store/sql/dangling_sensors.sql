-- Sensors of a raw table that air.sensor lacks. Each sensor is sought in the key, from one to the next:
-- it costs the same however many readings there are.
WITH RECURSIVE seen (sensor_id) AS (
    (SELECT min(sensor_id) FROM air.{table})
    UNION ALL
    SELECT (SELECT min(sensor_id) FROM air.{table} AS raw WHERE raw.sensor_id > seen.sensor_id)
      FROM seen
     WHERE seen.sensor_id IS NOT NULL)
SELECT sensor_id
  FROM seen
 WHERE sensor_id IS NOT NULL
   AND NOT EXISTS (SELECT FROM air.sensor WHERE sensor.sensor_id = seen.sensor_id)
