-- Make sensors known; one that is known keeps its model.
INSERT INTO air.sensor (sensor_id, model)
SELECT * FROM unnest(%(sensor_ids)s::integer[], %(models)s::text[])
ON CONFLICT (sensor_id) DO NOTHING
