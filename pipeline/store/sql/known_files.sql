-- Which of these hashes the ledger knows already, and what became of them. By halves, since each has
-- an index of its own.
SELECT sha256, file_id, name, state, contract_version, rule
  FROM air.source_file
 WHERE sha256 = ANY (%(hashes)s)
   AND state <> 'retracted' AND decided_at IS NULL
 UNION ALL
SELECT sha256, file_id, name, state, contract_version, rule
  FROM air.source_file
 WHERE sha256 = ANY (%(hashes)s)
   AND state <> 'retracted' AND decided_at IS NOT NULL
 -- Of two entries the loaded one comes last, and counts.
 ORDER BY state DESC
