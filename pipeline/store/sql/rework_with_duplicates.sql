-- Loaded files whose duplicates may be readings of these sensors and spans of time.
SELECT file_id, name, sha256, bytes, dialect, sensor_model, state, rows_read, rows_loaded,
       rows_duplicate, rows_quarantined, first_ts, last_ts, loaded_at, contract_version, app_version,
       parent_file_id, rule, reason, header, decided_at, decided_by, note,
       (SELECT jsonb_agg(jsonb_build_array(first_line, section.header) ORDER BY first_line)
          FROM air.source_section AS section
         WHERE section.file_id = source_file.file_id) AS sections
  FROM air.source_file
 WHERE state = 'loaded' AND rows_duplicate > 0
   AND (file_id IN (
            SELECT found.file_id
              FROM air.file_duplicates AS found
              JOIN unnest(%(sensor_ids)s::integer[], %(firsts)s::timestamptz[],
                          %(lasts)s::timestamptz[]) AS asked (sensor_id, first_ts, last_ts)
                ON found.sensor_id = asked.sensor_id
               AND found.first_ts <= asked.last_ts AND found.last_ts >= asked.first_ts)
        OR NOT EXISTS (
            SELECT FROM air.file_duplicates AS noted WHERE noted.file_id = source_file.file_id))
 ORDER BY file_id
