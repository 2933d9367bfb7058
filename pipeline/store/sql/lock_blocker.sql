-- Who holds the lock that a session of ours waits for.
SELECT pid, application_name, usename, xact_start AS since, left(query, 80) AS query,
       NULL AS relation
  FROM pg_stat_activity
 WHERE pid = ANY (pg_blocking_pids(%(pid)s))
 ORDER BY xact_start
 LIMIT 1
