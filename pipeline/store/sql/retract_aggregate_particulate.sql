-- The statistics of one file, worked out anew from raw_particulate.
INSERT INTO air.file_aggregate (file_id, sensor_id, quantity, n, min, max, mean, std)
SELECT raw.file_id, sensor_id, quantity, count(value), min(value), max(value),
       avg(value::double precision), stddev_samp(value::double precision)
  FROM air.raw_particulate AS raw
  JOIN air.source_file USING (file_id),
       LATERAL (VALUES ('pm10', pm10), ('pm25', pm25), ('pm1', pm1)) AS given (quantity, value)
 WHERE raw.file_id = %(file_id)s AND value IS NOT NULL
   AND ts BETWEEN source_file.first_ts AND source_file.last_ts
 GROUP BY raw.file_id, sensor_id, quantity
