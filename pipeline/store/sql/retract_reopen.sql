-- The rows that a replay had brought back are open again; how they were repaired is kept. Returns file
-- and number of rows.
WITH changed AS (
    UPDATE air.quarantined_row AS row
       SET state = 'open', replay_file_id = NULL, decided_at = NULL, decided_by = NULL
     WHERE replay_file_id = ANY (%(file_ids)s) AND NOT file_id = ANY (%(file_ids)s)
    RETURNING row.file_id, row.group_no), counted AS (
    SELECT file_id, group_no, count(*) AS rows FROM changed GROUP BY file_id, group_no), summed AS (
    UPDATE air.quarantine_summary AS summary
       SET open = open + counted.rows, repaired = repaired - counted.rows
      FROM counted
     WHERE summary.file_id = counted.file_id AND summary.group_no = counted.group_no)
SELECT file_id, sum(rows)::bigint FROM counted GROUP BY file_id
