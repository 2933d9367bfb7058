-- Today's European air quality index of every sensor: its newest hour, and the worst one so far.
SELECT DISTINCT ON (sensor_id)
       sensor_id, hour, pm10, pm25, band_name, complete,
       air.aqi_band_name(max(band) OVER (PARTITION BY sensor_id)) AS worst_today
  FROM air.aqi_hourly
 WHERE hour >= :'today'::timestamptz AND hour < :'today'::timestamptz + interval '1 day'
 ORDER BY sensor_id, hour DESC;
