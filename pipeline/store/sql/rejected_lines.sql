-- The lines of a file whose rows are open, as one text.
SELECT string_agg(line_no::text, ' ' ORDER BY line_no)
  FROM air.quarantined_row
 WHERE file_id = %s AND state = 'open'
