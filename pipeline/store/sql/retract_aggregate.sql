-- The statistics of one file, worked out anew from a raw table.
INSERT INTO air.file_aggregate (file_id, sensor_id, quantity, n, min, max, mean, std)
SELECT raw.file_id, sensor_id, quantity, count(value), min(value), max(value),
       avg(value::double precision), stddev_samp(value::double precision)
  FROM air.{table} AS raw
  JOIN air.source_file USING (file_id),
       LATERAL (VALUES {cells}) AS given (quantity, value)
 WHERE raw.file_id = %(file_id)s AND value IS NOT NULL
   AND ts BETWEEN source_file.first_ts AND source_file.last_ts
 GROUP BY raw.file_id, sensor_id, quantity
