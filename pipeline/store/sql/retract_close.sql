-- Nobody has to repair rows of a file that was taken back.
WITH changed AS (
    UPDATE air.quarantined_row
       SET state = 'discarded', decided_at = clock_timestamp(), decided_by = %(by)s,
           note = 'the file was retracted'
     WHERE file_id = ANY (%(file_ids)s) AND state = 'open')
UPDATE air.quarantine_summary
   SET discarded = discarded + open, open = 0
 WHERE file_id = ANY (%(file_ids)s) AND open > 0
