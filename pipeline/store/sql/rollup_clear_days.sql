-- Days that are worked out anew.
DELETE FROM air.daily
 USING unnest(%(sensor_ids)s::integer[], %(quantities)s::text[], %(days)s::date[])
       AS touched (sensor_id, quantity, day)
 WHERE daily.sensor_id = touched.sensor_id
   AND daily.quantity = touched.quantity
   AND daily.day = touched.day
