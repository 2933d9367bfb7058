-- The rejected rows of one file, in its order.
SELECT line_no, line, reasons, state
  FROM air.quarantined_row
 WHERE file_id = %(file_id)s
   AND (%(rule)s::text IS NULL OR reasons @> jsonb_build_array(jsonb_build_object('rule', %(rule)s)))
 ORDER BY line_no
 LIMIT %(limit)s
