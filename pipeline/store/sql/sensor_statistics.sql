-- Count, minimum, maximum, mean and spread per sensor and quantity, merged from the hourly rollup.
SELECT sensor_id, sensor.model, quantity,
       sum(n)::bigint AS n, min(hourly.min) AS min, max(hourly.max) AS max,
       sum(n * mean) / sum(n) AS mean,
       sqrt(greatest(0, sum(m2) + sum(n * mean ^ 2) - sum(n * mean) ^ 2 / sum(n))
            / nullif(sum(n) - 1, 0)) AS std
  FROM air.hourly
  JOIN air.sensor USING (sensor_id)
 GROUP BY sensor_id, sensor.model, quantity
 ORDER BY sensor_id, quantity
 LIMIT %(limit)s
