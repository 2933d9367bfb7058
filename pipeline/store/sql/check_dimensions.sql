-- The sensors and places among these that are not there, or are no longer what they were.
SELECT 'sensor' AS kind, sensor_id AS number
  FROM unnest(%(sensor_ids)s::integer[]) AS used (sensor_id)
 WHERE NOT EXISTS (SELECT FROM air.sensor WHERE sensor.sensor_id = used.sensor_id)
UNION ALL
SELECT 'place', used.location_key
  FROM unnest(
           %(location_keys)s::integer[], %(location_ids)s::integer[],
           %(lats)s::double precision[], %(lons)s::double precision[])
       AS used (location_key, location_id, lat, lon)
  LEFT JOIN air.location USING (location_key)
 WHERE location.location_key IS NULL
    OR (location.location_id, location.lat, location.lon)
       IS DISTINCT FROM (used.location_id, used.lat, used.lon)
