-- The keys of places, in the order asked for.
-- Compared as values that are never null: of IS NOT DISTINCT FROM every pair would be compared, and
-- a file may name a hundred thousand places.
SELECT location.location_key
  FROM unnest(
           %(location_ids)s::integer[], %(lats)s::double precision[], %(lons)s::double precision[])
       WITH ORDINALITY AS asked (location_id, lat, lon, position)
  JOIN air.location
    ON coalesce(location.location_id, -1) = coalesce(asked.location_id, -1)
   AND coalesce(location.lat, 'NaN') = coalesce(asked.lat, 'NaN')
   AND coalesce(location.lon, 'NaN') = coalesce(asked.lon, 'NaN')
 ORDER BY asked.position
