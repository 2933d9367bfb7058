-- A place for the readings that are taken back, until the transaction ends.
CREATE TEMPORARY TABLE taken_{table} (LIKE air.{table}) ON COMMIT DROP
