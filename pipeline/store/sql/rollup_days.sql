-- Days worked out from their hours.
INSERT INTO air.daily (sensor_id, quantity, day, n, hours, complete_hours, min, max, mean, m2)
SELECT sensor_id, quantity, day, sum(n), count(*), count(*) FILTER (WHERE n >= {complete}),
       min(low), max(high), min(centre), sum(m2 + n * (mean - centre) ^ 2)
  FROM (SELECT touched.sensor_id, touched.quantity, touched.day,
               known.n, known.min AS low, known.max AS high, known.mean, known.m2,
               sum(known.n * known.mean) OVER of_day / sum(known.n) OVER of_day AS centre
          FROM unnest(%(sensor_ids)s::integer[], %(quantities)s::text[], %(days)s::date[])
               AS touched (sensor_id, quantity, day)
         CROSS JOIN LATERAL (
             SELECT n, min, max, mean, m2
               FROM air.hourly
              WHERE hourly.sensor_id = touched.sensor_id
                AND hourly.quantity = touched.quantity
                AND hourly.hour >= touched.day::timestamp AT TIME ZONE 'UTC'
                AND hourly.hour < (touched.day + 1)::timestamp AT TIME ZONE 'UTC'
             -- Day by day, by the key: never a join that reads all hours.
             OFFSET 0) AS known
        WINDOW of_day AS (PARTITION BY touched.sensor_id, touched.quantity, touched.day)) AS hours
 GROUP BY sensor_id, quantity, day
 ORDER BY sensor_id, quantity, day
