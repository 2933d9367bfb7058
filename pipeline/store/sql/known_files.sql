-- Which of these hashes the ledger knows already, and what became of them.
SELECT sha256, file_id, name, state, contract_version
  FROM air.source_file
 WHERE sha256 = ANY (%(hashes)s)
   AND state <> 'retracted'
 -- Of two entries the loaded one comes last, and counts.
 ORDER BY state DESC
