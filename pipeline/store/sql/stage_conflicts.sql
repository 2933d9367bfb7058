-- The stored values that staged readings contradict, and the file they came from.
SELECT stage.idx, {values}, stored.file_id, source_file.name
  FROM stage
  JOIN air.{table} AS stored USING (sensor_id, ts)
  LEFT JOIN air.source_file ON source_file.file_id = stored.file_id
 WHERE stored.ts BETWEEN {{first}} AND {{last}} AND NOT ({same})
 ORDER BY stage.idx
