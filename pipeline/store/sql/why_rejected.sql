-- Rejected rows that name a sensor: those that hold the time first, then of files around it. Its
-- digits are looked for first, which takes a fraction of the time that the pattern takes.
SELECT row.file_id, row.line_no, row.line, row.line_bytes, row.reasons, row.state,
       row.replay_file_id, row.replay_line, row.decided_at, row.decided_by, row.note
  FROM air.quarantined_row AS row
  JOIN air.source_file USING (file_id)
 WHERE (row.line LIKE %(digits)s AND row.line ~ %(pattern)s
        OR row.replay_line LIKE %(digits)s AND row.replay_line ~ %(pattern)s)
   AND (first_ts IS NULL
        OR %(ts)s::timestamptz BETWEEN first_ts - interval '1 day' AND last_ts + interval '1 day'
        OR row.line LIKE '%%' || to_char(%(ts)s::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD') || '%%')
 ORDER BY row.file_id, row.line_no
 LIMIT %(limit)s
