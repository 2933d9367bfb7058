-- The feed after a number, oldest first, with its generation and newest number: all of one moment.
SELECT (SELECT generation FROM air.generation ORDER BY number DESC LIMIT 1) AS generation,
       coalesce((SELECT max(seq) FROM air.change), 0) AS newest,
       page.seq, at, kind, file_id, raw_table, months, rows_added, rows_removed, rows_changed,
       sensors, quarantine_opened, quarantine_closed
  FROM (SELECT) AS once
  LEFT JOIN (
      SELECT * FROM air.change WHERE seq > %(after)s ORDER BY seq LIMIT %(limit)s) AS page ON true
 ORDER BY page.seq
