-- The lines of a file whose rows are open, as one value.
SELECT string_agg(int8send(line_no), ''::bytea ORDER BY line_no)
  FROM air.quarantined_row
 WHERE file_id = %s AND state = 'open'
