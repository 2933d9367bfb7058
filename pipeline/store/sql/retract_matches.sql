-- Staged readings that were taken back, with the very same values.
SELECT stage.idx
  FROM retract_stage AS stage
  JOIN taken_{table} AS taken USING (sensor_id, ts)
 WHERE {same}
