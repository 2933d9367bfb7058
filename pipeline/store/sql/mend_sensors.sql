-- Sensors that are missing, with the one model that the ledger has of their file.
INSERT INTO air.sensor (sensor_id, model)
SELECT sensor_id, %(model)s FROM unnest(%(sensors)s::integer[]) AS missing (sensor_id)
ON CONFLICT (sensor_id) DO NOTHING
