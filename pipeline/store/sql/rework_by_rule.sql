-- Open rows by reason; a row with several counts for each of them.
SELECT reason ->> 'rule' AS rule, count(DISTINCT (row.file_id, row.line_no)) AS rows,
       count(DISTINCT row.file_id) AS files, min(reason ->> 'message') AS example
  FROM air.quarantined_row AS row, jsonb_array_elements(row.reasons) AS reason
 WHERE row.state = 'open'
   AND (%(rule)s::text IS NULL OR reason ->> 'rule' = %(rule)s)
 GROUP BY 1
 ORDER BY 2 DESC, 1
