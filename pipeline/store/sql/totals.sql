-- The whole ledger in one line, for `status`.
SELECT count(*) FILTER (WHERE state = 'loaded') AS files_loaded,
       count(*) FILTER (WHERE state = 'refused') AS files_refused,
       count(*) FILTER (WHERE state = 'retracted') AS files_retracted,
       coalesce(sum(rows_read) FILTER (WHERE state = 'loaded'), 0)::bigint AS rows_read,
       coalesce(sum(rows_loaded) FILTER (WHERE state = 'loaded'), 0)::bigint AS rows_loaded,
       coalesce(sum(rows_duplicate) FILTER (WHERE state = 'loaded'), 0)::bigint AS rows_duplicate,
       coalesce(sum(rows_quarantined) FILTER (WHERE state = 'loaded'), 0)::bigint AS rows_quarantined,
       min(first_ts) FILTER (WHERE state = 'loaded') AS first_ts,
       max(last_ts) FILTER (WHERE state = 'loaded') AS last_ts,
       max(loaded_at) AS last_loaded_at,
       (SELECT count(*) FROM air.sensor) AS sensors,
       (SELECT coalesce(sum(open), 0)::bigint FROM air.quarantine_summary) AS rows_open
  FROM air.source_file
