-- The statistics of one file, worked out anew from a raw table.
INSERT INTO air.file_aggregate (file_id, sensor_id, quantity, n, min, max, mean, std)
SELECT raw.file_id, sensor_id, quantity, count(value), min(value), max(value),
       avg(value::double precision), stddev_samp(value::double precision)
  FROM air.{table} AS raw,
       LATERAL (VALUES {cells}) AS given (quantity, value)
 WHERE raw.file_id = %(file_id)s AND value IS NOT NULL
   AND sensor_id = ANY (%(sensor_ids)s) AND ts BETWEEN %(first_ts)s AND %(last_ts)s
 GROUP BY raw.file_id, sensor_id, quantity
