-- Places of a table that air.location lacks.
SELECT location_key
  FROM (SELECT DISTINCT location_key FROM air.{table}) AS used
 WHERE NOT EXISTS (
     SELECT FROM air.location WHERE location.location_key = used.location_key)
