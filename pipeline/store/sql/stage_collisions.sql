-- Staged readings whose key is taken: which, and whether the stored values are the same.
COPY (
    SELECT stage.idx, ({same}) AS same
      FROM stage
      JOIN air.{table} AS stored USING (sensor_id, ts)
     WHERE stored.ts BETWEEN {{first}} AND {{last}}
) TO STDOUT (FORMAT binary)
