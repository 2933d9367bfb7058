-- How many sensors reported in every hour, and how many gave a complete one, for `report`.
SELECT hour AS start, count(*) AS reporting, count(*) FILTER (WHERE complete) AS complete
  FROM (SELECT sensor_id, hour, bool_and(complete) AS complete
          FROM air.hourly_complete
         WHERE hour >= %(since)s AND hour < %(until)s
         GROUP BY sensor_id, hour) AS hours
 GROUP BY hour
 ORDER BY hour
