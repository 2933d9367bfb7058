-- Write the ledger rows of a batch.
INSERT INTO air.source_file (
    file_id, name, sha256, bytes, dialect, sensor_model, state,
    rows_read, rows_loaded, rows_duplicate, rows_quarantined,
    first_ts, last_ts, detected_at, loaded_at, contract_version, app_version, rule, reason,
    header, parent_file_id)
OVERRIDING SYSTEM VALUE
VALUES (
    %(file_id)s, %(name)s, %(sha256)s, %(bytes)s, %(dialect)s, %(sensor_model)s, %(state)s,
    %(rows_read)s, %(rows_loaded)s, %(rows_duplicate)s, %(rows_quarantined)s,
    %(first_ts)s, %(last_ts)s, %(detected_at)s, clock_timestamp(), %(contract_version)s,
    %(app_version)s, %(rule)s, %(reason)s, %(header)s, %(parent_file_id)s)
