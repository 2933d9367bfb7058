-- Hours worked out from a raw table; regr_sxx is the sum of squared deviations from the mean.
INSERT INTO air.hourly (sensor_id, quantity, hour, n, min, max, mean, m2)
SELECT touched.sensor_id, cell.quantity, touched.hour, count(*), min(cell.value), max(cell.value),
       avg(cell.value::double precision),
       regr_sxx(cell.value::double precision, cell.value::double precision)
  FROM unnest(%(sensor_ids)s::integer[], %(hours)s::timestamptz[]) AS touched (sensor_id, hour)
 CROSS JOIN LATERAL (
     SELECT *
       FROM air.{table}
      WHERE {table}.sensor_id = touched.sensor_id
        AND {table}.ts >= touched.hour AND {table}.ts < touched.hour + interval '1 hour'
     -- Hour by hour, by the key: never a join that reads all readings.
     OFFSET 0) AS raw
 CROSS JOIN LATERAL (VALUES {cells}) AS cell (quantity, value)
 WHERE cell.value IS NOT NULL
 GROUP BY touched.sensor_id, cell.quantity, touched.hour
 ORDER BY touched.sensor_id, cell.quantity, touched.hour
