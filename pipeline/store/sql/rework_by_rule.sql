-- Open rows by reason; a row with several counts for each of them. The example is looked up where
-- the rule was broken first.
SELECT found.rule, found.rows, found.files,
       (SELECT reason ->> 'message'
          FROM (SELECT row.reasons
                  FROM air.quarantined_row AS row
                 WHERE row.file_id = found.file_id AND row.state = 'open'
                   AND row.group_no = ANY (
                       SELECT group_no FROM air.quarantine_summary AS summary
                        WHERE summary.file_id = found.file_id AND open > 0
                          AND found.rule = ANY (rules))
                 ORDER BY row.line_no
                 LIMIT 1) AS one, jsonb_array_elements(one.reasons) AS reason
         WHERE reason ->> 'rule' = found.rule
         LIMIT 1) AS example
  FROM (SELECT rule, sum(open)::bigint AS rows, count(DISTINCT file_id) AS files,
               min(file_id) AS file_id
          FROM air.quarantine_summary,
               LATERAL (SELECT DISTINCT unnest(rules)) AS broken (rule)
         WHERE open > 0 AND (%(rule)s::text IS NULL OR rule = %(rule)s)
         GROUP BY rule) AS found
 ORDER BY rows DESC, rule
