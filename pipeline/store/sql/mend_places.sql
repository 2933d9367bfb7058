-- Readings of a file whose place is missing get the one that the file gives.
UPDATE air.{table} AS raw
   SET location_key = stage.location_key
  FROM mend_stage AS stage
 WHERE raw.sensor_id = stage.sensor_id AND raw.ts = stage.ts
   AND raw.ts BETWEEN {{first}} AND {{last}}
   AND raw.file_id = %(file_id)s
   AND NOT EXISTS (SELECT FROM air.location WHERE location.location_key = raw.location_key)
