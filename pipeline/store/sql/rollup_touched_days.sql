-- The days of touched hours.
SELECT DISTINCT sensor_id, (hour AT TIME ZONE 'UTC')::date AS day
  FROM unnest(%(sensor_ids)s::integer[], %(hours)s::timestamptz[]) AS touched (sensor_id, hour)
