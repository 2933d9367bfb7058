-- Open rows by the time since they were rejected.
SELECT age, sum(rows)::bigint AS rows, count(*) AS files, min(loaded_at) AS oldest
  FROM (SELECT waiting.rows, source_file.loaded_at,
               CASE WHEN loaded_at > now() - interval '1 day' THEN 'a day at most'
                    WHEN loaded_at > now() - interval '7 days' THEN 'a week at most'
                    WHEN loaded_at > now() - interval '30 days' THEN '30 days at most'
                    ELSE 'older' END AS age
          FROM (SELECT file_id, sum(open) AS rows
                  FROM air.quarantine_summary
                 WHERE open > 0 AND (%(rule)s::text IS NULL OR %(rule)s = ANY (rules))
                 GROUP BY file_id) AS waiting
          JOIN air.source_file USING (file_id)) AS aged
 GROUP BY age
 ORDER BY max(loaded_at) DESC
