-- The rejected rows of the files that belong to the period, by rule and by what became of them, for `report`.
SELECT rule, count(*) AS rows, count(*) FILTER (WHERE state = 'open') AS open,
       count(*) FILTER (WHERE state = 'repaired') AS repaired,
       count(*) FILTER (WHERE state = 'discarded') AS discarded
  FROM (SELECT DISTINCT bad.file_id, bad.line_no, bad.state, told.why ->> 'rule' AS rule
          FROM air.source_file AS file
          JOIN air.quarantined_row AS bad USING (file_id)
          CROSS JOIN LATERAL jsonb_array_elements(bad.reasons) AS told (why)
         WHERE file.state = 'loaded'
           AND CASE WHEN file.first_ts IS NULL
                    THEN file.loaded_at >= %(since)s AND file.loaded_at < %(until)s
                    ELSE file.first_ts < %(until)s AND file.last_ts >= %(since)s END
           AND NOT EXISTS (
               SELECT FROM air.source_file AS parent
                WHERE parent.file_id = file.parent_file_id AND parent.state = 'loaded')
       ) AS broken
 GROUP BY rule
 ORDER BY rows DESC, rule
