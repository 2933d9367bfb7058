-- Every sensor of dust: its means and its band over complete days, and where it stood last, for `report`.
SELECT means.sensor_id, sensor.model, means.days, means.complete_days, means.pm10, means.pm25,
       means.band, air.aqi_band_name(means.band) AS band_name,
       place.location_id, place.lat, place.lon
  FROM (SELECT sensor_id, days, complete_days, pm10, pm25,
               greatest(air.aqi_band('pm10', pm10), air.aqi_band('pm25', pm25)) AS band
          FROM (SELECT sensor_id, count(*) AS days,
                       count(*) FILTER (WHERE complete) AS complete_days,
                       avg(pm10) FILTER (WHERE complete) AS pm10,
                       avg(pm25) FILTER (WHERE complete) AS pm25
                  FROM air.aqi_daily
                 WHERE day >= %(first)s AND day < %(after)s
                 GROUP BY sensor_id) AS days) AS means
  LEFT JOIN air.sensor USING (sensor_id)
  LEFT JOIN LATERAL (
      SELECT location.location_id, location.lat, location.lon
        FROM air.sensor_place AS here
        JOIN air.location USING (location_key)
       WHERE here.sensor_id = means.sensor_id
         AND here.first_ts < %(until)s AND here.last_ts >= %(since)s
         AND location.lat IS NOT NULL AND location.lon IS NOT NULL
       ORDER BY here.last_ts DESC
       LIMIT 1) AS place ON true
 ORDER BY means.sensor_id
