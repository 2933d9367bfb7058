-- Rows of a file at some of its lines, whatever became of them: of long ones, only the first.
SELECT line_no, line, line_bytes, told, replay_line, coalesce(replay_file_id, 0) AS replay_file_id,
       state, note
  FROM (SELECT row.line_no, convert_to(row.line, 'UTF8') AS line, row.line_bytes,
               convert_to({told}, 'UTF8') AS told,
               convert_to(row.replay_line, 'UTF8') AS replay_line, row.replay_file_id,
               convert_to(row.state, 'UTF8') AS state, convert_to(row.note, 'UTF8') AS note,
               sum(octet_length(row.line) + coalesce(octet_length(row.replay_line), 0))
                   OVER (ORDER BY row.line_no ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                   AS before
          FROM (SELECT DISTINCT unnest(%(lines)s::bigint[]) AS line_no) AS asked
         CROSS JOIN LATERAL (
             SELECT *
               FROM air.quarantined_row AS found
              WHERE found.file_id = %(file_id)s AND found.line_no = asked.line_no
             -- One by one, by the key: never a join that reads all rows of the file.
             OFFSET 0) AS row
         ORDER BY row.line_no) AS every
 WHERE before IS NULL OR before < %(bytes)s
