-- When files were taken, by the hash of their bytes.
SELECT sha256, max(loaded_at)
  FROM air.source_file
 WHERE sha256 = ANY (%(hashes)s)
   AND state <> 'refused'
 GROUP BY sha256
