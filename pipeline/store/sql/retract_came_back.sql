-- What was a duplicate of a reading that was taken back is now the reading.
UPDATE air.source_file
   SET rows_duplicate = rows_duplicate - %(rows)s, rows_loaded = rows_loaded + %(rows)s,
       first_ts = least(first_ts, %(first_ts)s), last_ts = greatest(last_ts, %(last_ts)s)
 WHERE file_id = %(file_id)s
RETURNING first_ts, last_ts
