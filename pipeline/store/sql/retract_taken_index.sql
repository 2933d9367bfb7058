-- Other files' readings are looked up among those that were taken.
CREATE UNIQUE INDEX ON taken_{table} (sensor_id, ts)
