-- Nobody has to repair rows of a file that was taken back. Returns file and number of rows.
WITH changed AS (
    UPDATE air.quarantined_row
       SET state = 'discarded', decided_at = clock_timestamp(), decided_by = %(by)s,
           note = 'the file was retracted'
     WHERE file_id = ANY (%(file_ids)s) AND state = 'open'
    RETURNING file_id), summed AS (
    UPDATE air.quarantine_summary
       SET discarded = discarded + open, open = 0
     WHERE file_id = ANY (%(file_ids)s) AND open > 0)
SELECT file_id, count(*) FROM changed GROUP BY file_id
