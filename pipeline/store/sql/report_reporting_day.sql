-- How many sensors reported on every day, and how many gave a complete one, for `report`.
SELECT day::timestamp AT TIME ZONE 'UTC' AS start, count(*) AS reporting,
       count(*) FILTER (WHERE complete) AS complete
  FROM (SELECT sensor_id, day, bool_and(complete) AS complete
          FROM air.daily_complete
         WHERE day >= %(first)s AND day < %(after)s
         GROUP BY sensor_id, day) AS days
 GROUP BY day
 ORDER BY day
