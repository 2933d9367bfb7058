-- The server's clock, when the ledger's newest entry was written, and whether the server is reached
-- over a network, and so may have a clock that is not ours.
SELECT clock_timestamp(),
       (SELECT loaded_at FROM air.source_file ORDER BY file_id DESC LIMIT 1),
       coalesce(
           inet_server_addr() <> inet_client_addr()
               AND NOT inet_server_addr() << inet '127.0.0.0/8', false)
