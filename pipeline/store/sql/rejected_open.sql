-- Open rows of a file, in its order, some at a time: so many, and of long ones fewer.
SELECT line_no, line, line_bytes, told, replay_line, 0 AS replay_file_id
  FROM (SELECT row.line_no, convert_to(row.line, 'UTF8') AS line, row.line_bytes,
               convert_to({told}, 'UTF8') AS told,
               convert_to(row.replay_line, 'UTF8') AS replay_line,
               sum(octet_length(row.line) + coalesce(octet_length(row.replay_line), 0))
                   OVER (ORDER BY row.line_no ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                   AS before
          FROM air.quarantined_row AS row
         WHERE row.file_id = %(file_id)s AND row.line_no > %(after)s AND row.state = 'open'
           AND (%(rule)s::text IS NULL
                OR row.group_no IN (SELECT group_no FROM air.quarantine_summary
                                     WHERE file_id = %(file_id)s AND %(rule)s = ANY (rules)))
         ORDER BY row.line_no
         LIMIT %(limit)s) AS page
 WHERE before IS NULL OR before < %(bytes)s
