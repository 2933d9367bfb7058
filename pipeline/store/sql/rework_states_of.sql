-- Rejected rows of one file by state, and their sum as the ledger has it.
SELECT coalesce(sum(open), 0)::bigint AS open, coalesce(sum(repaired), 0)::bigint AS repaired,
       coalesce(sum(discarded), 0)::bigint AS discarded,
       (SELECT rows_quarantined FROM air.source_file WHERE file_id = %(file_id)s) AS quarantined
  FROM air.quarantine_summary
 WHERE file_id = %(file_id)s
