-- Files with rows in quarantine, and how often each rule was broken.
SELECT source_file.file_id, source_file.name, source_file.loaded_at, waiting.rows, found.rules
  FROM (SELECT file_id, sum(open)::bigint AS rows
          FROM air.quarantine_summary
         WHERE open > 0
         GROUP BY file_id
        HAVING %(rule)s::text IS NULL OR bool_or(%(rule)s = ANY (rules))
         ORDER BY file_id DESC
         LIMIT %(limit)s) AS waiting
 CROSS JOIN LATERAL (
     SELECT jsonb_object_agg(rule, cells) AS rules
       FROM (SELECT rule, sum(open)::bigint AS cells
               FROM air.quarantine_summary AS summary, unnest(summary.rules) AS rule
              WHERE summary.file_id = waiting.file_id AND open > 0
              GROUP BY rule) AS counted) AS found
  JOIN air.source_file USING (file_id)
 ORDER BY source_file.file_id DESC
