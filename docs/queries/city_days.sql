-- The mean of PM2.5 over the city, for every day of two years.
SELECT day, count(*) AS sensors, round(avg(mean)::numeric, 1) AS pm25
  FROM air.daily_complete
 WHERE quantity = 'pm25' AND complete
   AND day > :'today'::date - interval '2 years' AND day <= :'today'
 GROUP BY day
 ORDER BY day;
