-- Take the readings of files out, and remember them.
WITH gone AS (
    DELETE FROM air.{table}
     WHERE file_id = ANY (%(file_ids)s) AND sensor_id = ANY (%(sensor_ids)s)
       AND ts BETWEEN %(first_ts)s AND %(last_ts)s
    RETURNING *)
INSERT INTO taken_{table} SELECT * FROM gone
