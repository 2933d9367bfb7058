-- The sensors' means of every complete hour, put together to median and quartiles, for `report`.
SELECT quantity, hour AS start, count(*) AS sensors,
       percentile_cont(0.25) WITHIN GROUP (ORDER BY mean) AS low,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY mean) AS median,
       percentile_cont(0.75) WITHIN GROUP (ORDER BY mean) AS high
  FROM air.hourly_complete
 WHERE complete AND hour >= %(since)s AND hour < %(until)s
 GROUP BY quantity, hour
 ORDER BY quantity, hour
