-- Who holds, or waits for, a lock of a table that lets nobody read it.
SELECT pid, application_name, usename, xact_start AS since, left(query, 80) AS query, relname AS relation
  FROM pg_locks JOIN pg_class ON pg_class.oid = relation JOIN pg_stat_activity USING (pid)
 WHERE relnamespace = to_regnamespace('air')
   AND mode = 'AccessExclusiveLock'
   AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND pid <> pg_backend_pid()
 ORDER BY granted DESC, relkind NOT IN ('r', 'p'), xact_start
 LIMIT 1
