-- The reading of a sensor at a time, from either raw table.
SELECT 'raw_particulate' AS table, file_id, flags, location_id, lat, lon,
       jsonb_build_object('pm10', pm10, 'pm25', pm25, 'pm1', pm1) AS values
  FROM air.raw_particulate LEFT JOIN air.location USING (location_key)
 WHERE sensor_id = %(sensor_id)s AND ts = %(ts)s
UNION ALL
SELECT 'raw_climate', file_id, flags, location_id, lat, lon,
       jsonb_build_object('temperature', temperature, 'humidity', humidity, 'pressure', pressure)
  FROM air.raw_climate LEFT JOIN air.location USING (location_key)
 WHERE sensor_id = %(sensor_id)s AND ts = %(ts)s
