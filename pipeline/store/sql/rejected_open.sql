-- Open rows of a file as columns, in its order, some at a time.
SELECT row.line_no, row.line, row.line_bytes, {told}, 'open', NULL::integer,
       row.replay_line, NULL::text
  FROM air.quarantined_row AS row
 WHERE row.file_id = %(file_id)s AND row.line_no > %(after)s AND row.state = 'open'
   AND (%(rule)s::text IS NULL
        OR row.group_no IN (SELECT group_no FROM air.quarantine_summary
                             WHERE file_id = %(file_id)s AND %(rule)s = ANY (rules)))
 ORDER BY row.line_no
 LIMIT %(limit)s
