-- The sensors' means of every complete day, put together to median and quartiles, for `report`.
SELECT quantity, day::timestamp AT TIME ZONE 'UTC' AS start, count(*) AS sensors,
       percentile_cont(0.25) WITHIN GROUP (ORDER BY mean) AS low,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY mean) AS median,
       percentile_cont(0.75) WITHIN GROUP (ORDER BY mean) AS high
  FROM air.daily_complete
 WHERE complete AND day >= %(first)s AND day < %(after)s
 GROUP BY quantity, day
 ORDER BY quantity, day
