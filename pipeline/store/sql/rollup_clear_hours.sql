-- Hours that are worked out anew.
DELETE FROM air.hourly
 USING unnest(%(sensor_ids)s::integer[], %(hours)s::timestamptz[]) AS touched (sensor_id, hour)
 WHERE hourly.sensor_id = touched.sensor_id AND hourly.hour = touched.hour
