-- Open rows by what stands in the column of their sensor.
SELECT sensor, sum(open)::bigint AS rows, count(DISTINCT file_id) AS files
  FROM air.quarantine_summary
 WHERE open > 0 AND (%(rule)s::text IS NULL OR %(rule)s = ANY (rules))
 GROUP BY sensor
 ORDER BY rows DESC, sensor
 LIMIT %(limit)s
