-- Merge when sensors were seen where into what is known; times are µs since 1970.
INSERT INTO air.sensor_place AS known (sensor_id, location_key, first_ts, last_ts)
SELECT sensor_id, location_key,
       timestamptz 'epoch' + first * interval '1 microsecond',
       timestamptz 'epoch' + last * interval '1 microsecond'
  FROM unnest(
      %(sensor_ids)s::integer[], %(location_keys)s::integer[],
      %(firsts)s::bigint[], %(lasts)s::bigint[]) AS seen (sensor_id, location_key, first, last)
ON CONFLICT (sensor_id, location_key) DO UPDATE SET
    first_ts = least(known.first_ts, excluded.first_ts),
    last_ts = greatest(known.last_ts, excluded.last_ts)
WHERE excluded.first_ts < known.first_ts OR excluded.last_ts > known.last_ts
