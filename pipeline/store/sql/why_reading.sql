-- The reading of a sensor at a time, from a raw table.
SELECT '{table}' AS table, file_id, flags, location_id, lat, lon,
       (SELECT jsonb_object_agg(quantity, value)
          FROM (VALUES {cells}) AS cell (quantity, value)) AS values
  FROM air.{table} AS raw LEFT JOIN air.location USING (location_key)
 WHERE sensor_id = %(sensor_id)s AND ts = %(ts)s
