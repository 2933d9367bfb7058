-- Rejected rows of one file by state, and their sum as the ledger has it.
SELECT count(*) FILTER (WHERE state = 'open') AS open,
       count(*) FILTER (WHERE state = 'repaired') AS repaired,
       count(*) FILTER (WHERE state = 'discarded') AS discarded,
       (SELECT rows_quarantined FROM air.source_file WHERE file_id = %(file_id)s) AS quarantined
  FROM air.quarantined_row
 WHERE file_id = %(file_id)s
