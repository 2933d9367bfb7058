-- What this transaction has done, for the feed; whoever listens is woken by the commit.
WITH written AS (
    INSERT INTO air.change (at, kind, file_id, raw_table, months, rows_added, rows_removed,
        rows_changed, sensors, quarantine_opened, quarantine_closed)
    SELECT clock_timestamp(), %(kind)s, file_id, raw_table, months::jsonb, added, removed, changed,
           sensors::integer[], opened, closed
      FROM unnest(
          %(file_ids)s::integer[], %(raw_tables)s::text[], %(months)s::text[], %(added)s::bigint[],
          %(removed)s::bigint[], %(changed)s::bigint[], %(sensors)s::text[], %(opened)s::bigint[],
          %(closed)s::bigint[])
          WITH ORDINALITY AS noted (file_id, raw_table, months, added, removed, changed, sensors,
              opened, closed, position)
     ORDER BY position
    RETURNING seq)
SELECT pg_notify('air_change', max(seq)::text) FROM written
