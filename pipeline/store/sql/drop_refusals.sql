-- A file that was refused under another contract is judged anew: its old verdict gives way, unless
-- a person has settled it.
DELETE FROM air.source_file WHERE sha256 = ANY (%(hashes)s) AND state = 'refused'
   AND decided_at IS NULL
