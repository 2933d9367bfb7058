-- Rows that came back leave quarantine; one that is no longer open is left as it is.
UPDATE air.quarantined_row AS row
   SET state = 'repaired', replay_file_id = %(replay)s, replay_line = came.text,
       decided_at = clock_timestamp(), decided_by = %(by)s
  FROM unnest(%(lines)s::bigint[], %(texts)s::text[]) AS came (line_no, text)
 WHERE row.file_id = %(file_id)s AND row.line_no = came.line_no AND row.state = 'open'
