-- Silences of more than an hour in the month until today, of all sensors.
SELECT sensor_id, started_at, ended_at, length, missed
  FROM air.gaps(:'today'::timestamptz - interval '1 month', :'today'::timestamptz)
 ORDER BY length DESC, sensor_id, started_at;
