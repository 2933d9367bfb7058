-- Rows of a file at some of its lines, whatever became of them.
SELECT row.line_no, row.line, row.line_bytes, {told}, row.state,
       row.replay_file_id, row.replay_line, row.note
  FROM (SELECT DISTINCT unnest(%(lines)s::bigint[]) AS line_no) AS asked
 CROSS JOIN LATERAL (
     SELECT *
       FROM air.quarantined_row AS found
      WHERE found.file_id = %(file_id)s AND found.line_no = asked.line_no
     -- One by one, by the key: never a join that reads all rows of the file.
     OFFSET 0) AS row
 ORDER BY row.line_no
