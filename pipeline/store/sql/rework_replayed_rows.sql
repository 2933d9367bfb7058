-- The rows that a replay brought back.
SELECT file_id, line_no, line, line_bytes, reasons, state, replay_file_id, replay_line,
       decided_at, decided_by, note
  FROM air.quarantined_row
 WHERE replay_file_id = %(replay_file_id)s
 ORDER BY line_no
