-- Rejected rows of one file, in its order, some at a time.
SELECT file_id, line_no, line, line_bytes, reasons, state, replay_file_id, replay_line,
       decided_at, decided_by, note
  FROM air.quarantined_row
 WHERE file_id = %(file_id)s
   AND line_no > %(after)s
   AND (%(states)s::text[] IS NULL OR state = ANY (%(states)s))
   -- Not ANY: on a table without statistics yet, its array is searched from end to end for each row.
   AND (%(lines)s::bigint[] IS NULL OR line_no IN (SELECT unnest(%(lines)s::bigint[])))
   AND (%(rule)s::text IS NULL
        OR group_no IN (SELECT group_no FROM air.quarantine_summary
                         WHERE file_id = %(file_id)s AND %(rule)s = ANY (rules)))
 ORDER BY line_no
 LIMIT %(limit)s
