-- Rejected rows by state, and their sum as the ledger has it.
SELECT coalesce(sum(open), 0)::bigint AS open, coalesce(sum(repaired), 0)::bigint AS repaired,
       coalesce(sum(discarded), 0)::bigint AS discarded,
       (SELECT coalesce(sum(rows_quarantined), 0)::bigint FROM air.source_file) AS quarantined
  FROM air.quarantine_summary
