-- The files and sensors of readings whose sensor or place is missing.
SELECT file_id, sensor_id, count(*) AS readings
  FROM air.{table}
 WHERE sensor_id = ANY (%(sensors)s::integer[]) OR location_key = ANY (%(places)s::integer[])
 GROUP BY file_id, sensor_id
