-- Rows that somebody does not want.
WITH changed AS (
    UPDATE air.quarantined_row
       SET state = 'discarded', decided_at = clock_timestamp(), decided_by = %(by)s,
           note = %(note)s
     WHERE file_id = %(file_id)s AND state = 'open'
       AND (%(lines)s::bigint[] IS NULL OR line_no IN (SELECT unnest(%(lines)s::bigint[])))
       AND (%(rule)s::text IS NULL
            OR group_no IN (SELECT group_no FROM air.quarantine_summary
                             WHERE file_id = %(file_id)s AND %(rule)s = ANY (rules)))
    RETURNING line_no, group_no), counted AS (
    UPDATE air.quarantine_summary AS summary
       SET open = open - each.rows, discarded = discarded + each.rows
      FROM (SELECT group_no, count(*) AS rows FROM changed GROUP BY group_no) AS each
     WHERE summary.file_id = %(file_id)s AND summary.group_no = each.group_no)
SELECT line_no FROM changed ORDER BY line_no
