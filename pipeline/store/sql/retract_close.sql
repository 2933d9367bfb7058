-- Nobody has to repair rows of a file that was taken back.
UPDATE air.quarantined_row
   SET state = 'discarded', decided_at = clock_timestamp(), decided_by = %(by)s,
       note = 'the file was retracted'
 WHERE file_id = ANY (%(file_ids)s) AND state = 'open'
