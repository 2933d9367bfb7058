-- The ledger remembers that files were taken back, and by whom.
UPDATE air.source_file
   SET state = 'retracted', decided_at = clock_timestamp(), decided_by = %(by)s, note = %(note)s
 WHERE file_id = ANY (%(file_ids)s)
