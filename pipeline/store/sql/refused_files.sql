-- Files that were refused as a whole.
SELECT file_id, name, loaded_at, bytes, rule, reason
  FROM air.source_file
 WHERE state = 'refused' AND (%(rule)s::text IS NULL OR rule = %(rule)s)
 ORDER BY file_id DESC
 LIMIT %(limit)s
