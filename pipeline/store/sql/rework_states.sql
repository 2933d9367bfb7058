-- Rejected rows by state, and their sum as the ledger has it.
SELECT count(*) FILTER (WHERE state = 'open') AS open,
       count(*) FILTER (WHERE state = 'repaired') AS repaired,
       count(*) FILTER (WHERE state = 'discarded') AS discarded,
       (SELECT coalesce(sum(rows_quarantined), 0)::bigint FROM air.source_file) AS quarantined
  FROM air.quarantined_row
