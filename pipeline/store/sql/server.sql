-- The server's version, and the size of the database in bytes.
SELECT current_setting('server_version') AS version,
       pg_database_size(current_database()) AS bytes
