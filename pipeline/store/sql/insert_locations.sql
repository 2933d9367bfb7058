-- Make places known. A location id may come with several coordinates: each is a place of its own.
INSERT INTO air.location (location_id, lat, lon)
SELECT * FROM unnest(
    %(location_ids)s::integer[], %(lats)s::double precision[], %(lons)s::double precision[])
ON CONFLICT (location_id, lat, lon) DO NOTHING
