-- The keys of places, in the order asked for.
SELECT location.location_key
  FROM unnest(
           %(location_ids)s::integer[], %(lats)s::double precision[], %(lons)s::double precision[])
       WITH ORDINALITY AS asked (location_id, lat, lon, position)
  JOIN air.location
    ON location.location_id IS NOT DISTINCT FROM asked.location_id
   AND location.lat IS NOT DISTINCT FROM asked.lat
   AND location.lon IS NOT DISTINCT FROM asked.lon
 ORDER BY asked.position
