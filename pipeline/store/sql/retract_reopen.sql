-- The rows that a replay had brought back are open again; how they were repaired is kept.
UPDATE air.quarantined_row AS row
   SET state = 'open', replay_file_id = NULL, decided_at = NULL, decided_by = NULL
 WHERE replay_file_id = ANY (%(file_ids)s) AND NOT file_id = ANY (%(file_ids)s)
