-- Readings of a file whose place is missing get the one that the file gives. Returns month, number of
-- readings, sensors.
WITH changed AS (
    UPDATE air.{table} AS raw
       SET location_key = stage.location_key
      FROM mend_stage AS stage
     WHERE raw.sensor_id = stage.sensor_id AND raw.ts = stage.ts
       AND raw.ts BETWEEN {{first}} AND {{last}}
       AND raw.file_id = %(file_id)s
       AND NOT EXISTS (SELECT FROM air.location WHERE location.location_key = raw.location_key)
    RETURNING raw.ts, raw.sensor_id)
SELECT (date_trunc('month', ts, 'UTC') AT TIME ZONE 'UTC')::date, count(*),
       array_agg(DISTINCT sensor_id)
  FROM changed
 GROUP BY 1
