-- Ledger rows by number, hash or name: the newest first.
SELECT file_id, name, sha256, state, sensor_model, rows_read, rows_loaded, rows_duplicate,
       rows_quarantined, first_ts, last_ts, loaded_at, rule, reason, bytes
  FROM air.source_file
 WHERE name = %(key)s
    OR file_id::text = %(key)s
    OR (length(%(key)s) >= 8 AND sha256 LIKE %(key)s || '%%')
 ORDER BY file_id DESC
