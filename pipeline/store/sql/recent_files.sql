-- The files taken last, with their books.
SELECT file_id, name, state, sensor_model, rows_read, rows_loaded, rows_duplicate,
       rows_quarantined, first_ts, last_ts, loaded_at, rule, reason
  FROM air.source_file
 ORDER BY file_id DESC
 LIMIT %(limit)s
