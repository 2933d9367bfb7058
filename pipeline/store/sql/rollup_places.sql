-- Who stood where, after readings were taken out: only first and last ones can have changed it.
WITH doubtful AS (
    SELECT DISTINCT place.sensor_id, place.location_key, place.first_ts, place.last_ts
      FROM air.sensor_place AS place
      JOIN unnest(%(sensor_ids)s::integer[], %(hours)s::timestamptz[]) AS touched (sensor_id, hour)
        ON touched.sensor_id = place.sensor_id
       AND touched.hour IN (
           date_trunc('hour', place.first_ts, 'UTC'), date_trunc('hour', place.last_ts, 'UTC'))
), anew AS (
    SELECT doubtful.sensor_id, doubtful.location_key, earliest.ts AS first_ts, latest.ts AS last_ts
      FROM doubtful
     CROSS JOIN LATERAL (
         SELECT min(ts) AS ts
           FROM ((SELECT ts FROM air.raw_particulate AS raw
                   WHERE raw.sensor_id = doubtful.sensor_id
                     AND raw.location_key = doubtful.location_key
                     AND raw.ts BETWEEN doubtful.first_ts AND doubtful.last_ts
                   ORDER BY ts LIMIT 1)
                 UNION ALL
                 (SELECT ts FROM air.raw_climate AS raw
                   WHERE raw.sensor_id = doubtful.sensor_id
                     AND raw.location_key = doubtful.location_key
                     AND raw.ts BETWEEN doubtful.first_ts AND doubtful.last_ts
                   ORDER BY ts LIMIT 1)) AS found) AS earliest
     CROSS JOIN LATERAL (
         SELECT max(ts) AS ts
           FROM ((SELECT ts FROM air.raw_particulate AS raw
                   WHERE raw.sensor_id = doubtful.sensor_id
                     AND raw.location_key = doubtful.location_key
                     AND raw.ts BETWEEN doubtful.first_ts AND doubtful.last_ts
                   ORDER BY ts DESC LIMIT 1)
                 UNION ALL
                 (SELECT ts FROM air.raw_climate AS raw
                   WHERE raw.sensor_id = doubtful.sensor_id
                     AND raw.location_key = doubtful.location_key
                     AND raw.ts BETWEEN doubtful.first_ts AND doubtful.last_ts
                   ORDER BY ts DESC LIMIT 1)) AS found) AS latest
), gone AS (
    DELETE FROM air.sensor_place AS place
     USING anew
     WHERE anew.first_ts IS NULL
       AND place.sensor_id = anew.sensor_id AND place.location_key = anew.location_key
)
UPDATE air.sensor_place AS place
   SET first_ts = anew.first_ts, last_ts = anew.last_ts
  FROM anew
 WHERE anew.first_ts IS NOT NULL
   AND place.sensor_id = anew.sensor_id AND place.location_key = anew.location_key
