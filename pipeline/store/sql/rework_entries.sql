-- Ledger rows for those who rework files: by key, number, parent, or by what is left to do.
SELECT file_id, name, sha256, bytes, dialect, sensor_model, state, rows_read, rows_loaded,
       rows_duplicate, rows_quarantined, first_ts, last_ts, loaded_at, contract_version, app_version,
       parent_file_id, rule, reason, header, decided_at, decided_by, note,
       (SELECT jsonb_agg(jsonb_build_array(first_line, section.header) ORDER BY first_line)
          FROM air.source_section AS section
         WHERE section.file_id = source_file.file_id) AS sections
  FROM air.source_file
 WHERE (%(key)s::text IS NULL OR name = %(key)s OR file_id::text = %(key)s
        OR (length(%(key)s) >= 8 AND sha256 LIKE %(key)s || '%%'))
   AND (%(file_id)s::integer IS NULL OR file_id = %(file_id)s)
   AND (%(parent)s::integer IS NULL OR parent_file_id = %(parent)s)
   AND (%(refused)s::boolean IS NULL
        OR (state = 'refused' AND decided_at IS NULL
            AND (%(rule)s::text IS NULL OR rule = %(rule)s)))
   AND (%(open_rows)s::boolean IS NULL OR file_id IN (
           SELECT summary.file_id FROM air.quarantine_summary AS summary
            WHERE open > 0 AND (%(rule)s::text IS NULL OR %(rule)s = ANY (rules))))
   AND (%(copies)s::text IS NULL
        OR (state = 'loaded' AND left(header, 7) = 'line_no' AND name LIKE '%%.' || %(copies)s || '%%'))
 ORDER BY file_id DESC
