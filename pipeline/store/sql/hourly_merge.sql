-- Merge new readings' statistics into the hours they fall in (Chan, Golub and LeVeque 1979).
INSERT INTO air.hourly AS known (sensor_id, quantity, hour, n, min, max, mean, m2)
SELECT sensor_id, quantity, hour, n, min, max, mean, m2
  FROM hourly_stage
 ORDER BY sensor_id, quantity, hour
ON CONFLICT (sensor_id, quantity, hour) DO UPDATE SET
    n = known.n + excluded.n,
    min = least(known.min, excluded.min),
    max = greatest(known.max, excluded.max),
    mean = known.mean + (excluded.mean - known.mean) * excluded.n / (known.n + excluded.n),
    m2 = known.m2 + excluded.m2
       + (excluded.mean - known.mean) ^ 2 * known.n * excluded.n / (known.n + excluded.n)
