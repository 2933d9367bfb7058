-- How many complete hours of sensors were in each band of the index, per hour or day, for `report`.
SELECT date_trunc(%(step)s, hour) AS start, band, band_name, count(*) AS sensor_hours
  FROM air.aqi_hourly
 WHERE complete AND hour >= %(since)s AND hour < %(until)s
 GROUP BY date_trunc(%(step)s, hour), band, band_name
 ORDER BY start, band
