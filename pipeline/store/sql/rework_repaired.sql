-- Rows that came back leave quarantine; one that is no longer open is left as it is.
WITH changed AS (
    UPDATE air.quarantined_row AS row
       SET state = 'repaired', replay_file_id = %(replay)s, replay_line = came.text,
           decided_at = clock_timestamp(), decided_by = %(by)s
      FROM came_back AS came
     WHERE row.file_id = %(file_id)s AND row.line_no = came.line_no AND row.state = 'open'
       -- Known to be so: only a part of the file needs to be looked at.
       AND row.line_no BETWEEN %(first)s AND %(last)s
    RETURNING row.group_no)
UPDATE air.quarantine_summary AS summary
   SET open = open - counted.rows, repaired = repaired + counted.rows
  FROM (SELECT group_no, count(*) AS rows FROM changed GROUP BY group_no) AS counted
 WHERE summary.file_id = %(file_id)s AND summary.group_no = counted.group_no
