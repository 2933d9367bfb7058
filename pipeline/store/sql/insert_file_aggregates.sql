-- What each file brought, per sensor and quantity.
INSERT INTO air.file_aggregate (file_id, sensor_id, quantity, n, min, max, mean, std)
SELECT file_id, sensor_id, quantity, n, min, max, mean,
       CASE WHEN n > 1 THEN sqrt(m2 / (n - 1)) END
  FROM unnest(
      %(file_ids)s::integer[], %(sensor_ids)s::integer[], %(quantities)s::text[],
      %(ns)s::bigint[], %(mins)s::real[], %(maxs)s::real[],
      %(means)s::double precision[], %(m2s)s::double precision[])
    AS given (file_id, sensor_id, quantity, n, min, max, mean, m2)
