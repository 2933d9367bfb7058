-- Open rows by the time since they were rejected.
SELECT age, count(*) AS rows, count(DISTINCT file_id) AS files, min(loaded_at) AS oldest
  FROM (SELECT row.file_id, source_file.loaded_at,
               CASE WHEN loaded_at > now() - interval '1 day' THEN 'a day at most'
                    WHEN loaded_at > now() - interval '7 days' THEN 'a week at most'
                    WHEN loaded_at > now() - interval '30 days' THEN '30 days at most'
                    ELSE 'older' END AS age
          FROM air.quarantined_row AS row
          JOIN air.source_file USING (file_id)
         WHERE row.state = 'open'
           AND (%(rule)s::text IS NULL
                OR row.reasons @> jsonb_build_array(jsonb_build_object('rule', %(rule)s::text))))
       AS waiting
 GROUP BY age
 ORDER BY max(loaded_at) DESC
