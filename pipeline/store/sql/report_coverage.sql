-- How much there is of the period: sensors, readings, complete days and hours, for `report`.
SELECT count(DISTINCT sensor_id) AS sensors,
       count(DISTINCT sensor_id) FILTER (WHERE dust) AS dust_sensors,
       count(DISTINCT sensor_id) FILTER (WHERE climate) AS climate_sensors,
       coalesce(sum(readings), 0)::bigint AS readings,
       count(*) AS sensor_days, count(*) FILTER (WHERE complete) AS complete_days,
       coalesce(sum(complete_hours), 0)::bigint AS complete_hours
  FROM (SELECT sensor_id, day, max(n) AS readings, bool_and(complete) AS complete,
               min(complete_hours) AS complete_hours,
               bool_or(quantity = ANY(%(dust)s)) AS dust,
               bool_or(quantity = ANY(%(climate)s)) AS climate
          FROM air.daily_complete
         WHERE day >= %(first)s AND day < %(after)s
         GROUP BY sensor_id, day) AS days
