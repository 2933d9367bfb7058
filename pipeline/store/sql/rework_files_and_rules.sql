-- Files with open rows that broke some rules, and which of these.
SELECT DISTINCT file_id, rule
  FROM air.quarantine_summary, unnest(rules) AS rule
 WHERE open > 0 AND rule = ANY (%(rules)s)
 ORDER BY file_id, rule
