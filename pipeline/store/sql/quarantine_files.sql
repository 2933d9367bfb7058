-- Files with rows in quarantine, and how often each rule was broken.
SELECT source_file.file_id, source_file.name, source_file.loaded_at,
       broken.rows, broken.rules
  FROM (SELECT file_id, sum(rows)::bigint AS rows, jsonb_object_agg(rule, cells) AS rules
          FROM (SELECT row.file_id, reason ->> 'rule' AS rule, count(*) AS cells,
                       count(*) FILTER (WHERE position = 1) AS rows
                  FROM air.quarantined_row AS row,
                       jsonb_array_elements(row.reasons) WITH ORDINALITY AS found (reason, position)
                 WHERE row.state = 'open'
                 GROUP BY row.file_id, rule) AS counted
         GROUP BY file_id) AS broken
  JOIN air.source_file USING (file_id)
 WHERE %(rule)s::text IS NULL OR broken.rules ? %(rule)s
 ORDER BY source_file.file_id DESC
 LIMIT %(limit)s
