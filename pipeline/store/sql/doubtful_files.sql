-- Files that an earlier version stored, and whose values are not what they seem to be.
SELECT file_id, name, 'type' AS why
  FROM air.source_file
 WHERE state = 'loaded' AND rows_loaded > 0
   AND string_to_array(sensor_model, ', ') && %(types)s::text[]
 UNION ALL
SELECT file_id, name, 'header'
  FROM air.source_file AS file
 WHERE state = 'loaded' AND rows_loaded > 0 AND header IS NOT NULL AND parent_file_id IS NULL
   AND NOT EXISTS (SELECT FROM air.source_section WHERE source_section.file_id = file.file_id)
   AND EXISTS (
           SELECT FROM air.quarantined_row AS row
            WHERE row.file_id = file.file_id
              AND row.reasons @> '[{"rule": "repeated_header"}]'
              AND lower(btrim(row.line, E'\uFEFF\r ')) <> lower(btrim(file.header, E'\uFEFF\r ')))
 ORDER BY file_id
 LIMIT %(limit)s
