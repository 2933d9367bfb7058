-- A sensor's month of raw readings.
SELECT ts, pm10, pm25
  FROM air.raw_particulate
 WHERE sensor_id = :sensor
   AND ts >= :'month'::timestamptz AND ts < :'month'::timestamptz + interval '1 month'
 ORDER BY ts;
