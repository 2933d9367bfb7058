-- Reserve ids for files whose ledger rows are written when their books are known.
SELECT nextval(pg_get_serial_sequence('air.source_file', 'file_id'))::integer
  FROM generate_series(1, %(count)s)
