-- What was taken out of a raw table: file, month, number of readings, sensors.
SELECT file_id, (date_trunc('month', ts, 'UTC') AT TIME ZONE 'UTC')::date, count(*),
       array_agg(DISTINCT sensor_id)
  FROM taken_{table}
 GROUP BY 1, 2
