-- Every quantity over the whole period: each sensor's mean of complete days, put together, for `report`.
SELECT quantity, count(*) AS sensors, sum(days)::bigint AS sensor_days,
       percentile_cont(0.25) WITHIN GROUP (ORDER BY mean) AS low,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY mean) AS median,
       percentile_cont(0.75) WITHIN GROUP (ORDER BY mean) AS high,
       min(lowest) AS lowest, max(highest) AS highest
  FROM (SELECT sensor_id, quantity, count(*) AS days, avg(mean) AS mean,
               min(min) AS lowest, max(max) AS highest
          FROM air.daily_complete
         WHERE complete AND day >= %(first)s AND day < %(after)s
         GROUP BY sensor_id, quantity) AS means
 GROUP BY quantity
 ORDER BY quantity
