-- What analysts ask: formulas as functions, questions as views. The migrations hold a copy.

-- --- Formulas ------------------------------------------------------------------------------------

CREATE FUNCTION air.dew_point(temperature double precision, humidity double precision)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN humidity > 0 THEN
        243.12 * (ln(humidity / 100) + 17.62 * temperature / (243.12 + temperature))
        / (17.62 - ln(humidity / 100) - 17.62 * temperature / (243.12 + temperature))
    END;
COMMENT ON FUNCTION air.dew_point(double precision, double precision) IS
    'Dew point in °C from temperature in °C and relative humidity in %: the Magnus formula over water with the constants of Sonntag 1990 (17.62 and 243.12 °C), good from −45 to 60 °C. Null where the humidity is 0.';

CREATE FUNCTION air.heat_index(temperature double precision, humidity double precision)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (
    SELECT CASE
        WHEN simple < 80 THEN simple
        WHEN humidity < 13 AND f BETWEEN 80 AND 112 THEN
            regression - (13 - humidity) / 4 * sqrt((17 - abs(f - 95)) / 17)
        WHEN humidity > 85 AND f BETWEEN 80 AND 87 THEN
            regression + (humidity - 85) / 10 * ((87 - f) / 5)
        ELSE regression
        END / 1.8 - 32 / 1.8
      FROM (SELECT temperature * 1.8 + 32 AS f) AS fahrenheit,
           LATERAL (SELECT
               (f + 0.5 * (f + 61 + (f - 68) * 1.2 + humidity * 0.094)) / 2 AS simple,
               -42.379 + 2.04901523 * f + 10.14333127 * humidity
               - 0.22475541 * f * humidity - 0.00683783 * f * f
               - 0.05481717 * humidity * humidity + 0.00122874 * f * f * humidity
               + 0.00085282 * f * humidity * humidity
               - 0.00000199 * f * f * humidity * humidity AS regression) AS steadman
);
COMMENT ON FUNCTION air.heat_index(double precision, double precision) IS
    'How hot it feels in the shade, in °C, from temperature in °C and relative humidity in %: the heat index of the U.S. National Weather Service (Rothfusz 1990, with its adjustments for dry and for humid air; below 80 °F the simple formula).';

CREATE FUNCTION air.sea_level_pressure(
    pressure double precision, temperature double precision, height double precision)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pressure
    * ((temperature + 273.15) / (temperature + 273.15 + 0.0065 * height)) ^ (-5.255);
COMMENT ON FUNCTION air.sea_level_pressure(double precision, double precision, double precision) IS
    'Pressure reduced to sea level, in hPa, from the pressure at the sensor in hPa, the temperature there in °C and its height in metres; the air below is taken to be 6.5 °C warmer for every kilometre.';

CREATE FUNCTION air.dry_dust(
    dust double precision, humidity double precision, kappa double precision DEFAULT 0.4)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN humidity <= 0 THEN dust
    WHEN humidity IS NOT NULL THEN
        dust / (1 + kappa / 1.65 / (100 / least(humidity, 95) - 1))
    END;
COMMENT ON FUNCTION air.dry_dust(double precision, double precision, double precision) IS
    'What an optical sensor would have read in dry air, in µg/m³, from its reading in µg/m³ and the relative humidity in %: growth by water after κ-Köhler theory, as a ratio of masses. kappa is the dust''s hygroscopicity. Humidity above 95 % is taken as 95, for beyond it the growth runs away. An estimate: never use it in place of the reading without saying so.';

CREATE FUNCTION air.aqi_band(quantity text, mean double precision)
RETURNS smallint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE quantity
    WHEN 'pm10' THEN CASE
        WHEN mean <= 15 THEN 1 WHEN mean <= 45 THEN 2 WHEN mean <= 120 THEN 3
        WHEN mean <= 195 THEN 4 WHEN mean <= 270 THEN 5 WHEN mean > 270 THEN 6 END
    WHEN 'pm25' THEN CASE
        WHEN mean <= 5 THEN 1 WHEN mean <= 15 THEN 2 WHEN mean <= 50 THEN 3
        WHEN mean <= 90 THEN 4 WHEN mean <= 140 THEN 5 WHEN mean > 140 THEN 6 END
    END::smallint;
COMMENT ON FUNCTION air.aqi_band(text, double precision) IS
    'Band of the European air quality index, 1 (good) to 6 (extremely poor), of an hour''s mean of pm10 or pm25 in µg/m³. Null for other quantities. See air.aqi_version().';

CREATE FUNCTION air.aqi_band_name(band integer)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (ARRAY['Good', 'Fair', 'Moderate', 'Poor', 'Very poor', 'Extremely poor'])[band];
COMMENT ON FUNCTION air.aqi_band_name(integer) IS
    'Name of a band of the European air quality index, 1 to 6.';

CREATE FUNCTION air.aqi_version()
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 'EAQI 2024';
COMMENT ON FUNCTION air.aqi_version() IS
    'Which version of the European air quality index the bands are of: that of 2024 (European Environment Agency, ETC HE report 2024/17).';

CREATE FUNCTION air.distance(
    lat1 double precision, lon1 double precision, lat2 double precision, lon2 double precision)
RETURNS double precision
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    -- least() passes over nulls, and so would give a distance to nowhere.
    WHEN lat1 + lon1 + lat2 + lon2 IS NOT NULL THEN
        2 * 6371008.8 * asin(least(1, sqrt(
            sind((lat2 - lat1) / 2) ^ 2
            + cosd(lat1) * cosd(lat2) * sind((lon2 - lon1) / 2) ^ 2)))
    END;
COMMENT ON FUNCTION air.distance(double precision, double precision, double precision, double precision) IS
    'Distance between two places in metres, from latitudes and longitudes in degrees: along a great circle of a sphere of 6371 km (haversine).';

-- --- What readings are measured against ----------------------------------------------------------

CREATE VIEW air.quantity AS
SELECT *
  FROM (VALUES
    ('pm10', 'Particulate matter up to 10 µm', 'µg/m³', 0.0, 1999.9, 0.0, 999.9, 150.0, 600.0, 100.0),
    ('pm25', 'Particulate matter up to 2.5 µm', 'µg/m³', 0.0, 1999.9, 0.0, 999.89, 100.0, 400.0, 70.0),
    ('pm1', 'Particulate matter up to 1 µm', 'µg/m³', 0.0, 1999.9, 0.0, 999.9, 100.0, 400.0, 70.0),
    ('temperature', 'Air temperature', '°C', -50.0, 50.0, -30.0, 45.0, 3.0, 10.0, 2.0),
    ('humidity', 'Relative humidity', '%RH', 0.0, 100.0, 1.01, 99.89, 10.0, 30.0, 6.0),
    ('pressure', 'Air pressure at the sensor', 'hPa', 300.0, 1100.0, 300.0, 1100.0, 2.0, 10.0, 1.0)
  ) AS declared (
    quantity, title, unit, accept_low, accept_high, typical_low, typical_high,
    spike_suspect, spike_fail, rate_suspect);
COMMENT ON VIEW air.quantity IS
    'What is measured, and the figures that air.qc_flags() and the scores of quality judge by. One row a quantity. Ranges are those of the contract as it is delivered; a site''s own settings do not change them here.';
COMMENT ON COLUMN air.quantity.quantity IS 'Name of the quantity: a column of a raw table.';
COMMENT ON COLUMN air.quantity.title IS 'The quantity in words.';
COMMENT ON COLUMN air.quantity.unit IS 'Its unit.';
COMMENT ON COLUMN air.quantity.accept_low IS 'Lowest value that is accepted.';
COMMENT ON COLUMN air.quantity.accept_high IS 'Highest value that is accepted.';
COMMENT ON COLUMN air.quantity.typical_low IS 'Values below this are accepted and suspect.';
COMMENT ON COLUMN air.quantity.typical_high IS 'Values above this are accepted and suspect.';
COMMENT ON COLUMN air.quantity.spike_suspect IS 'A reading further than this from the middle of its two neighbours is suspect.';
COMMENT ON COLUMN air.quantity.spike_fail IS 'A reading further than this from the middle of its two neighbours fails.';
COMMENT ON COLUMN air.quantity.rate_suspect IS 'A reading that differs from the one before by more than this for each minute is suspect.';

CREATE VIEW air.limit_value AS
SELECT *
  FROM (VALUES
    ('WHO 2021', 'pm10', 'day', 45.0::double precision, 3),
    ('WHO 2021', 'pm25', 'day', 15.0, 3),
    ('WHO 2021', 'pm10', 'year', 15.0, 0),
    ('WHO 2021', 'pm25', 'year', 5.0, 0),
    ('EU 2008/50/EC', 'pm10', 'day', 50.0, 35),
    ('EU 2008/50/EC', 'pm10', 'year', 40.0, 0),
    ('EU 2008/50/EC', 'pm25', 'year', 20.0, 0)
  ) AS declared (standard, quantity, period, limit_value, allowed_days);
COMMENT ON VIEW air.limit_value IS
    'Guidelines and legal limits for means of fine dust. One row a standard, quantity and period.';
COMMENT ON COLUMN air.limit_value.standard IS 'Who set it: the WHO''s air quality guidelines of 2021, or the EU''s directive 2008/50/EC.';
COMMENT ON COLUMN air.limit_value.quantity IS 'What it is for: pm10 or pm25.';
COMMENT ON COLUMN air.limit_value.period IS 'Of what it limits the mean: a day or a year.';
COMMENT ON COLUMN air.limit_value.limit_value IS 'Highest mean that is allowed, µg/m³.';
COMMENT ON COLUMN air.limit_value.allowed_days IS 'Days of a year on which a daily mean may be higher; 0 for a yearly mean.';

-- --- Sensors -------------------------------------------------------------------------------------

CREATE VIEW air.latest AS
SELECT sensor.sensor_id, sensor.model, newest.ts, location.location_id, location.lat, location.lon,
       newest.pm10, newest.pm25, newest.pm1,
       newest.temperature, newest.humidity, newest.pressure, newest.flags
  FROM air.sensor
  CROSS JOIN LATERAL (
      (SELECT ts, location_key, flags, pm10, pm25, pm1,
              NULL::real AS temperature, NULL::real AS humidity, NULL::real AS pressure
         FROM air.raw_particulate AS dust
        WHERE dust.sensor_id = sensor.sensor_id
        ORDER BY ts DESC LIMIT 1)
      UNION ALL
      (SELECT ts, location_key, flags, NULL, NULL, NULL, temperature, humidity, pressure
         FROM air.raw_climate AS climate
        WHERE climate.sensor_id = sensor.sensor_id
        ORDER BY ts DESC LIMIT 1)
      ORDER BY ts DESC LIMIT 1) AS newest
  LEFT JOIN air.location USING (location_key);
COMMENT ON VIEW air.latest IS
    'The newest reading of every sensor. One row a sensor. Fast for one sensor and for all.';
COMMENT ON COLUMN air.latest.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.latest.model IS 'Its model, for example sds011.';
COMMENT ON COLUMN air.latest.ts IS 'Time of the reading, UTC.';
COMMENT ON COLUMN air.latest.location_id IS 'Number of its location in the network; null: the file gave none.';
COMMENT ON COLUMN air.latest.lat IS 'Latitude in degrees north; null: not known.';
COMMENT ON COLUMN air.latest.lon IS 'Longitude in degrees east; null: not known.';
COMMENT ON COLUMN air.latest.pm10 IS 'PM10, µg/m³; null: not measured.';
COMMENT ON COLUMN air.latest.pm25 IS 'PM2.5, µg/m³; null: not measured.';
COMMENT ON COLUMN air.latest.pm1 IS 'PM1, µg/m³; null: not measured.';
COMMENT ON COLUMN air.latest.temperature IS 'Temperature, °C; null: not measured.';
COMMENT ON COLUMN air.latest.humidity IS 'Relative humidity, %; null: not measured.';
COMMENT ON COLUMN air.latest.pressure IS 'Pressure at the sensor, hPa; null: not measured.';
COMMENT ON COLUMN air.latest.flags IS 'Marks on the row, as in the raw table it is from.';

CREATE VIEW air.silence AS
SELECT latest.sensor_id, latest.model, latest.ts AS last_ts, now() - latest.ts AS silent_for,
       pace.cadence,
       greatest(0, floor(extract(epoch FROM now() - latest.ts) / pace.cadence) - 1)::bigint AS missed
  FROM air.latest
  CROSS JOIN LATERAL (
      SELECT coalesce(
          (SELECT round((86400.0 / max(daily.n)), 1)
             FROM air.daily
            WHERE daily.sensor_id = latest.sensor_id
              AND daily.day > latest.ts::date - 30
              AND daily.complete_hours = 24),
          148) AS cadence) AS pace;
COMMENT ON VIEW air.silence IS
    'For how long every sensor has said nothing, and how many readings that is at its own pace. One row a sensor.';
COMMENT ON COLUMN air.silence.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.silence.model IS 'Its model.';
COMMENT ON COLUMN air.silence.last_ts IS 'Time of its newest reading, UTC.';
COMMENT ON COLUMN air.silence.silent_for IS 'Time since then.';
COMMENT ON COLUMN air.silence.cadence IS 'Seconds from one of its readings to the next: on its busiest whole day of the 30 before last_ts; 148 where there is none.';
COMMENT ON COLUMN air.silence.missed IS 'Readings that should have come since last_ts.';

CREATE FUNCTION air.gaps(
    since timestamptz, until timestamptz,
    longer_than interval DEFAULT '1 hour', sensor integer DEFAULT NULL)
RETURNS TABLE (
    sensor_id integer, started_at timestamptz, ended_at timestamptz, length interval, missed bigint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
AS $$
    -- A silence that is long enough has an hour without a reading in it, or takes half its least
    -- length from one hour, which then has few readings. Days whose 24 hours are complete have
    -- neither; of the others, only such hours are looked up in the raw tables.
    WITH days AS (
        -- The quantity with the most readings speaks for its sensor.
        SELECT DISTINCT ON (daily.sensor_id, daily.day)
               daily.sensor_id, daily.day, daily.quantity, daily.quantity LIKE 'pm%' AS dust,
               daily.hours = 24 AS no_hole,
               daily.complete_hours = 24 AND longer_than >= interval '42 minutes' AS whole
          FROM air.daily
         WHERE daily.day BETWEEN (since AT TIME ZONE 'UTC')::date - 1
                             AND (until AT TIME ZONE 'UTC')::date
           AND (sensor IS NULL OR daily.sensor_id = sensor)
         ORDER BY daily.sensor_id, daily.day, daily.n DESC
    ), neighbours AS (
        SELECT days.*,
               days.day::timestamp AT TIME ZONE 'UTC' AS starts,
               (days.day + 1)::timestamp AT TIME ZONE 'UTC' AS ends,
               lag(days.day) OVER along = days.day - 1 AS follows,
               lag(days.day) OVER along = days.day - 1 AND lag(days.no_hole) OVER along
                   AS after_no_hole,
               lead(days.day) OVER along = days.day + 1 AND lead(days.whole) OVER along
                   AS before_whole
          FROM days
        WINDOW along AS (PARTITION BY days.sensor_id ORDER BY days.day)
    ), hours AS (
        SELECT neighbours.sensor_id, neighbours.dust, seen.hour, seen.n
          FROM neighbours
          CROSS JOIN LATERAL (
              SELECT hourly.hour, hourly.n,
                     lag(hourly.hour) OVER along AS before, lead(hourly.hour) OVER along AS after
                FROM air.hourly
               WHERE hourly.sensor_id = neighbours.sensor_id
                 AND hourly.quantity = neighbours.quantity
                 AND hourly.hour >= neighbours.starts AND hourly.hour < neighbours.ends
              WINDOW along AS (ORDER BY hourly.hour)) AS seen
         WHERE (NOT neighbours.whole OR neighbours.follows IS NOT TRUE)
           AND seen.hour >= since - interval '2 hours' AND seen.hour < until
           AND (seen.n <= 2 + (3600 - extract(epoch FROM longer_than) / 2) / 148
                -- The hour before is missing, or may be.
                OR seen.hour - coalesce(
                       seen.before,
                       CASE WHEN after_no_hole THEN starts - interval '1 hour' END)
                   IS DISTINCT FROM interval '1 hour'
                -- The hour after is missing, and the next one is of a day that is not looked at.
                OR before_whole AND seen.after IS NULL
                   AND seen.hour + interval '1 hour' < ends)
    ), lives AS (
        SELECT place.sensor_id, min(place.first_ts) AS first_ts, max(place.last_ts) AS last_ts
          FROM air.sensor_place AS place
         WHERE sensor IS NULL OR place.sensor_id = sensor
         GROUP BY place.sensor_id
    ), doubtful AS MATERIALIZED (
        SELECT hours.* FROM hours
        UNION ALL
        -- What reaches beyond the end.
        SELECT lives.sensor_id, kind.dust, until, 0
          FROM lives
          CROSS JOIN LATERAL (
              SELECT daily.quantity LIKE 'pm%' AS dust
                FROM air.daily
               WHERE daily.sensor_id = lives.sensor_id LIMIT 1) AS kind
         WHERE lives.first_ts < until AND lives.last_ts >= until
    ), silences AS (
        -- From the reading before the hour, through its n, to the one after.
        SELECT doubtful.sensor_id, silent.started_at, silent.ended_at
          FROM doubtful
          CROSS JOIN LATERAL (
              SELECT lag(point.ts) OVER (ORDER BY point.ts) AS started_at, point.ts AS ended_at
                FROM ((SELECT ts FROM air.raw_particulate AS raw
                        WHERE raw.sensor_id = doubtful.sensor_id AND raw.ts < doubtful.hour
                        ORDER BY ts DESC LIMIT 1)
                      UNION ALL
                      (SELECT ts FROM air.raw_particulate AS raw
                        WHERE raw.sensor_id = doubtful.sensor_id AND raw.ts >= doubtful.hour
                        ORDER BY ts LIMIT doubtful.n + 1)) AS point) AS silent
         WHERE doubtful.dust AND silent.ended_at - silent.started_at > longer_than
        UNION
        SELECT doubtful.sensor_id, silent.started_at, silent.ended_at
          FROM doubtful
          CROSS JOIN LATERAL (
              SELECT lag(point.ts) OVER (ORDER BY point.ts) AS started_at, point.ts AS ended_at
                FROM ((SELECT ts FROM air.raw_climate AS raw
                        WHERE raw.sensor_id = doubtful.sensor_id AND raw.ts < doubtful.hour
                        ORDER BY ts DESC LIMIT 1)
                      UNION ALL
                      (SELECT ts FROM air.raw_climate AS raw
                        WHERE raw.sensor_id = doubtful.sensor_id AND raw.ts >= doubtful.hour
                        ORDER BY ts LIMIT doubtful.n + 1)) AS point) AS silent
         WHERE NOT doubtful.dust AND silent.ended_at - silent.started_at > longer_than
        UNION
        SELECT lives.sensor_id, lives.last_ts, NULL
          FROM lives
         WHERE lives.last_ts < until
    )
    SELECT silences.sensor_id, silences.started_at, silences.ended_at,
           coalesce(silences.ended_at, until) - silences.started_at,
           greatest(0, floor(extract(epoch FROM
               coalesce(silences.ended_at, until) - silences.started_at) / 148) - 1)::bigint
      FROM silences
     WHERE coalesce(silences.ended_at, until) - silences.started_at > longer_than
       AND silences.started_at < until
       AND coalesce(silences.ended_at, until) > since
     ORDER BY silences.sensor_id, silences.started_at
$$;
COMMENT ON FUNCTION air.gaps(timestamptz, timestamptz, interval, integer) IS
    'Silences of sensors that lie between since and until, or reach into it: when they started (the last reading before) and ended (the first after; null: not yet), how long they are, and how many readings are missing at one every 148 seconds. longer_than: the shortest that counts, an hour by default. sensor: only that one. Exact for sensors that report every 148 seconds or more rarely; of one that reports more often, silences of less than two hours can be missed.';

CREATE VIEW air.moved AS
SELECT sensor_id, moved_at, from_location_id, from_lat, from_lon, to_location_id, to_lat, to_lon,
       distance
  FROM (SELECT sensor_id, place.first_ts AS moved_at,
               lag(location_id) OVER along AS from_location_id,
               lag(lat) OVER along AS from_lat, lag(lon) OVER along AS from_lon,
               location_id AS to_location_id, lat AS to_lat, lon AS to_lon,
               air.distance(lag(lat) OVER along, lag(lon) OVER along, lat, lon) AS distance
          FROM air.sensor_place AS place
          JOIN air.location USING (location_key)
        WINDOW along AS (PARTITION BY sensor_id ORDER BY place.first_ts, place.location_key)
       ) AS steps
 WHERE from_location_id <> to_location_id OR distance > 200;
COMMENT ON VIEW air.moved IS
    'Sensors that moved: the number of their location changed, or they are more than 200 m from where they were (less is a coordinate rounded anew). One row a move; a sensor that went back to an earlier place shows its first move only.';
COMMENT ON COLUMN air.moved.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.moved.moved_at IS 'Time of its first reading at the new place, UTC.';
COMMENT ON COLUMN air.moved.from_location_id IS 'Number of the location where it was; null: the file gave none.';
COMMENT ON COLUMN air.moved.from_lat IS 'Latitude of where it was, degrees north.';
COMMENT ON COLUMN air.moved.from_lon IS 'Longitude of where it was, degrees east.';
COMMENT ON COLUMN air.moved.to_location_id IS 'Number of the location where it is now; null: the file gave none.';
COMMENT ON COLUMN air.moved.to_lat IS 'Latitude of where it is now, degrees north.';
COMMENT ON COLUMN air.moved.to_lon IS 'Longitude of where it is now, degrees east.';
COMMENT ON COLUMN air.moved.distance IS 'How far it moved, metres; null: one of the places is not known.';

CREATE VIEW air.stuck AS
SELECT sensor_id, quantity, value, min(hour) AS since, max(hour) + interval '1 hour' AS until,
       count(*) AS hours, sum(n)::bigint AS readings
  FROM (SELECT sensor_id, quantity, min AS value, hour, n,
               hour - interval '1 hour' * row_number() OVER (
                   PARTITION BY sensor_id, quantity, min ORDER BY hour) AS run
          FROM air.hourly
         WHERE min = max AND n >= 18) AS flat
 GROUP BY sensor_id, quantity, value, run
HAVING count(*) >= 6;
COMMENT ON VIEW air.stuck IS
    'Sensors that gave the same value for at least six complete hours on end. One row for each such time. Reads the hours of the sensors and quantities that you name, or all.';
COMMENT ON COLUMN air.stuck.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.stuck.quantity IS 'What was measured.';
COMMENT ON COLUMN air.stuck.value IS 'The value that did not change, in the unit of the quantity.';
COMMENT ON COLUMN air.stuck.since IS 'Start of the first of these hours, UTC.';
COMMENT ON COLUMN air.stuck.until IS 'End of the last of these hours, UTC.';
COMMENT ON COLUMN air.stuck.hours IS 'How many hours.';
COMMENT ON COLUMN air.stuck.readings IS 'How many readings in them.';

-- --- Hours and days ------------------------------------------------------------------------------

CREATE VIEW air.hourly_complete AS
SELECT sensor_id, quantity, hour, n, min, max, mean, std,
       least(1, n * 148 / 3600.0)::double precision AS completeness, n >= 18 AS complete
  FROM air.hourly;
COMMENT ON VIEW air.hourly_complete IS
    'Statistics of every hour, and whether it has enough readings to count. One row a sensor, quantity and hour.';
COMMENT ON COLUMN air.hourly_complete.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.hourly_complete.quantity IS 'What was measured.';
COMMENT ON COLUMN air.hourly_complete.hour IS 'Start of the hour, UTC.';
COMMENT ON COLUMN air.hourly_complete.n IS 'Number of readings.';
COMMENT ON COLUMN air.hourly_complete.min IS 'Lowest reading, in the unit of the quantity.';
COMMENT ON COLUMN air.hourly_complete.max IS 'Highest reading, in the unit of the quantity.';
COMMENT ON COLUMN air.hourly_complete.mean IS 'Arithmetic mean, in the unit of the quantity.';
COMMENT ON COLUMN air.hourly_complete.std IS 'Sample standard deviation; null: one reading only.';
COMMENT ON COLUMN air.hourly_complete.completeness IS 'Share of the readings that one every 148 seconds makes, 0 to 1.';
COMMENT ON COLUMN air.hourly_complete.complete IS 'Whether the hour counts: at least 18 readings, three quarters.';

CREATE VIEW air.daily_complete AS
SELECT sensor_id, quantity, day, n, hours, complete_hours, min, max, mean, std,
       complete_hours / 24.0::double precision AS completeness, complete_hours >= 18 AS complete
  FROM air.daily;
COMMENT ON VIEW air.daily_complete IS
    'Statistics of every day (UTC), and whether it has enough hours to count. One row a sensor, quantity and day.';
COMMENT ON COLUMN air.daily_complete.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.daily_complete.quantity IS 'What was measured.';
COMMENT ON COLUMN air.daily_complete.day IS 'The day, UTC.';
COMMENT ON COLUMN air.daily_complete.n IS 'Number of readings.';
COMMENT ON COLUMN air.daily_complete.hours IS 'Number of hours with a reading.';
COMMENT ON COLUMN air.daily_complete.complete_hours IS 'Number of hours with at least 18 readings.';
COMMENT ON COLUMN air.daily_complete.min IS 'Lowest reading, in the unit of the quantity.';
COMMENT ON COLUMN air.daily_complete.max IS 'Highest reading, in the unit of the quantity.';
COMMENT ON COLUMN air.daily_complete.mean IS 'Mean of all readings, in the unit of the quantity.';
COMMENT ON COLUMN air.daily_complete.std IS 'Sample standard deviation; null: one reading only.';
COMMENT ON COLUMN air.daily_complete.completeness IS 'Share of the 24 hours that are complete, 0 to 1.';
COMMENT ON COLUMN air.daily_complete.complete IS 'Whether the day counts: at least 18 complete hours, three quarters.';

CREATE VIEW air.aqi_hourly AS
SELECT sensor_id, hour, pm10, pm25, band, air.aqi_band_name(band) AS band_name,
       air.aqi_version() AS index_version, complete
  FROM (SELECT sensor_id, hour, pm10, pm25, complete,
               greatest(air.aqi_band('pm10', pm10), air.aqi_band('pm25', pm25)) AS band
          FROM (SELECT sensor_id, hour,
                       max(mean) FILTER (WHERE quantity = 'pm10') AS pm10,
                       max(mean) FILTER (WHERE quantity = 'pm25') AS pm25,
                       bool_and(n >= 18) AS complete
                  FROM air.sensor
                  JOIN air.hourly USING (sensor_id)
                 WHERE quantity IN ('pm10', 'pm25')
                 GROUP BY sensor_id, hour) AS means) AS judged;
COMMENT ON VIEW air.aqi_hourly IS
    'Band of the European air quality index of every hour. The worse of PM10 and PM2.5 counts. One row a sensor and hour. A sensor of this kind is no reference station: an indication.';
COMMENT ON COLUMN air.aqi_hourly.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.aqi_hourly.hour IS 'Start of the hour, UTC.';
COMMENT ON COLUMN air.aqi_hourly.pm10 IS 'Mean of PM10, µg/m³; null: not measured.';
COMMENT ON COLUMN air.aqi_hourly.pm25 IS 'Mean of PM2.5, µg/m³; null: not measured.';
COMMENT ON COLUMN air.aqi_hourly.band IS 'Band of the index, 1 (good) to 6 (extremely poor).';
COMMENT ON COLUMN air.aqi_hourly.band_name IS 'Its name.';
COMMENT ON COLUMN air.aqi_hourly.index_version IS 'Which version of the index it is.';
COMMENT ON COLUMN air.aqi_hourly.complete IS 'Whether the hour counts: each quantity has at least 18 readings.';

CREATE VIEW air.aqi_daily AS
SELECT sensor_id, day, pm10, pm25, band, air.aqi_band_name(band) AS band_name,
       air.aqi_version() AS index_version, complete
  FROM (SELECT sensor_id, day, pm10, pm25, complete,
               greatest(air.aqi_band('pm10', pm10), air.aqi_band('pm25', pm25)) AS band
          FROM (SELECT sensor_id, day,
                       max(mean) FILTER (WHERE quantity = 'pm10') AS pm10,
                       max(mean) FILTER (WHERE quantity = 'pm25') AS pm25,
                       bool_and(complete_hours >= 18) AS complete
                  FROM air.daily
                 WHERE quantity IN ('pm10', 'pm25')
                 GROUP BY sensor_id, day) AS means) AS judged;
COMMENT ON VIEW air.aqi_daily IS
    'Band of the European air quality index of every day (UTC), from the day''s means. The index itself is made for hours; for days its bounds are applied to the mean of the day. One row a sensor and day.';
COMMENT ON COLUMN air.aqi_daily.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.aqi_daily.day IS 'The day, UTC.';
COMMENT ON COLUMN air.aqi_daily.pm10 IS 'Mean of PM10, µg/m³; null: not measured.';
COMMENT ON COLUMN air.aqi_daily.pm25 IS 'Mean of PM2.5, µg/m³; null: not measured.';
COMMENT ON COLUMN air.aqi_daily.band IS 'Band of the index, 1 (good) to 6 (extremely poor).';
COMMENT ON COLUMN air.aqi_daily.band_name IS 'Its name.';
COMMENT ON COLUMN air.aqi_daily.index_version IS 'Which version of the index it is.';
COMMENT ON COLUMN air.aqi_daily.complete IS 'Whether the day counts: each quantity has at least 18 complete hours.';

CREATE VIEW air.exceedance AS
SELECT sensor_id, day, quantity, standard, mean, limit_value
  FROM air.daily
  JOIN air.limit_value USING (quantity)
 WHERE period = 'day' AND complete_hours >= 18 AND mean > limit_value;
COMMENT ON VIEW air.exceedance IS
    'Days on which a mean was above a guideline or limit for days, as far as they are complete. One row a sensor, day, quantity and standard.';
COMMENT ON COLUMN air.exceedance.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.exceedance.day IS 'The day, UTC.';
COMMENT ON COLUMN air.exceedance.quantity IS 'pm10 or pm25.';
COMMENT ON COLUMN air.exceedance.standard IS 'Whose limit it is; see air.limit_value.';
COMMENT ON COLUMN air.exceedance.mean IS 'Mean of the day, µg/m³.';
COMMENT ON COLUMN air.exceedance.limit_value IS 'Highest mean that is allowed, µg/m³.';

CREATE VIEW air.exceedance_year AS
SELECT sensor_id, year, quantity, standard, period, limit_value, days, days >= 274 AS complete,
       mean, days_above, allowed_days,
       CASE period WHEN 'day' THEN days_above > allowed_days ELSE mean > limit_value END AS exceeded
  FROM (SELECT sensor_id, extract(year FROM day)::integer AS year, quantity, standard, period,
               limit_value, allowed_days, count(*) AS days, avg(mean) AS mean,
               count(*) FILTER (WHERE mean > limit_value AND period = 'day') AS days_above
          FROM air.daily
          JOIN air.limit_value USING (quantity)
         WHERE complete_hours >= 18
         GROUP BY sensor_id, extract(year FROM day), quantity, standard, period, limit_value,
                  allowed_days) AS years;
COMMENT ON VIEW air.exceedance_year IS
    'Every sensor''s calendar year against the guidelines and limits, over its complete days. One row a sensor, year, quantity, standard and period.';
COMMENT ON COLUMN air.exceedance_year.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.exceedance_year.year IS 'The calendar year, UTC.';
COMMENT ON COLUMN air.exceedance_year.quantity IS 'pm10 or pm25.';
COMMENT ON COLUMN air.exceedance_year.standard IS 'Whose limit it is; see air.limit_value.';
COMMENT ON COLUMN air.exceedance_year.period IS 'Of what the limit limits the mean: a day or a year.';
COMMENT ON COLUMN air.exceedance_year.limit_value IS 'Highest mean that is allowed, µg/m³.';
COMMENT ON COLUMN air.exceedance_year.days IS 'Number of complete days.';
COMMENT ON COLUMN air.exceedance_year.complete IS 'Whether the year counts: at least 274 complete days, three quarters.';
COMMENT ON COLUMN air.exceedance_year.mean IS 'Mean of the means of the complete days, µg/m³.';
COMMENT ON COLUMN air.exceedance_year.days_above IS 'Complete days whose mean was above a limit for days.';
COMMENT ON COLUMN air.exceedance_year.allowed_days IS 'How many such days are allowed.';
COMMENT ON COLUMN air.exceedance_year.exceeded IS 'Whether the limit is broken: more days above it than are allowed, or the mean of the year above it.';

-- --- Dust and weather ----------------------------------------------------------------------------

CREATE VIEW air.paired AS
SELECT dust.sensor_id, dust.ts, place.location_id, dust.pm10, dust.pm25, dust.pm1,
       weather.sensor_id AS climate_sensor_id, weather.ts AS climate_ts,
       weather.temperature, weather.humidity, weather.pressure,
       air.dew_point(weather.temperature, weather.humidity) AS dew_point,
       air.heat_index(weather.temperature, weather.humidity) AS heat_index,
       air.sea_level_pressure(weather.pressure, weather.temperature, place.height)
           AS sea_level_pressure,
       weather.humidity >= 85 AS humid,
       air.dry_dust(dust.pm10, weather.humidity) AS pm10_dry,
       air.dry_dust(dust.pm25, weather.humidity) AS pm25_dry
  FROM air.raw_particulate AS dust
  JOIN air.location AS place USING (location_key)
  LEFT JOIN LATERAL (
      SELECT climate.sensor_id, climate.ts, climate.temperature, climate.humidity, climate.pressure
        FROM air.location AS near
        JOIN air.sensor_place AS here USING (location_key)
        JOIN air.raw_climate AS climate
          ON climate.sensor_id = here.sensor_id
         AND climate.location_key = here.location_key
         AND climate.ts >= dust.ts - interval '60 seconds'
         AND climate.ts <= dust.ts + interval '60 seconds'
       WHERE near.location_id = place.location_id AND here.sensor_id <> dust.sensor_id
       ORDER BY abs(extract(epoch FROM climate.ts - dust.ts)), climate.sensor_id, climate.ts
       LIMIT 1) AS weather ON true;
COMMENT ON VIEW air.paired IS
    'Every reading of dust with the weather at the same location: the nearest reading of a climate sensor within 60 seconds, if there is one. One row a reading of dust. Name the sensor, or a short span of ts.';
COMMENT ON COLUMN air.paired.sensor_id IS 'The sensor of dust; see air.sensor.';
COMMENT ON COLUMN air.paired.ts IS 'Time of its reading, UTC.';
COMMENT ON COLUMN air.paired.location_id IS 'Number of the location of both; null: the file gave none, and nothing is paired.';
COMMENT ON COLUMN air.paired.pm10 IS 'PM10 as it was read, µg/m³.';
COMMENT ON COLUMN air.paired.pm25 IS 'PM2.5 as it was read, µg/m³.';
COMMENT ON COLUMN air.paired.pm1 IS 'PM1 as it was read, µg/m³; null: not measured.';
COMMENT ON COLUMN air.paired.climate_sensor_id IS 'The sensor of the weather; null: none reported within 60 seconds.';
COMMENT ON COLUMN air.paired.climate_ts IS 'Time of its reading, UTC.';
COMMENT ON COLUMN air.paired.temperature IS 'Temperature, °C.';
COMMENT ON COLUMN air.paired.humidity IS 'Relative humidity, %.';
COMMENT ON COLUMN air.paired.pressure IS 'Pressure at the sensor, hPa.';
COMMENT ON COLUMN air.paired.dew_point IS 'Dew point, °C; see air.dew_point().';
COMMENT ON COLUMN air.paired.heat_index IS 'How hot it feels, °C; see air.heat_index().';
COMMENT ON COLUMN air.paired.sea_level_pressure IS 'Pressure reduced to sea level, hPa; null: the height in air.location is not known.';
COMMENT ON COLUMN air.paired.humid IS 'Whether the humidity is at least 85 %, where optical sensors read too high.';
COMMENT ON COLUMN air.paired.pm10_dry IS 'PM10 corrected for humidity, µg/m³: an estimate; see air.dry_dust().';
COMMENT ON COLUMN air.paired.pm25_dry IS 'PM2.5 corrected for humidity, µg/m³: an estimate; see air.dry_dust().';

-- --- Quality -------------------------------------------------------------------------------------

CREATE VIEW air.quality_file AS
SELECT file_id, name, state, rows_read, accepted, fresh, typical,
       CASE state
           WHEN 'loaded' THEN round(100 * least(accepted, typical))::integer
           WHEN 'refused' THEN 0 END AS score
  FROM (SELECT file_id, name, state, rows_read,
               1 - rows_quarantined / nullif(rows_read, 0)::double precision AS accepted,
               1 - rows_duplicate / nullif(rows_read, 0)::double precision AS fresh,
               (SELECT sum(found.n) FILTER (
                           WHERE found.min >= quantity.typical_low
                             AND found.max <= quantity.typical_high)
                       / sum(found.n)::double precision
                  FROM air.file_aggregate AS found
                  JOIN air.quantity ON quantity.quantity = found.quantity
                 WHERE found.file_id = source_file.file_id) AS typical
          FROM air.source_file) AS parts;
COMMENT ON VIEW air.quality_file IS
    'How good every file is, 0 to 100, and why: its score is the lowest of its parts accepted and typical. One row a file.';
COMMENT ON COLUMN air.quality_file.file_id IS 'Number of the file; see air.source_file.';
COMMENT ON COLUMN air.quality_file.name IS 'Its name.';
COMMENT ON COLUMN air.quality_file.state IS 'loaded, refused or retracted.';
COMMENT ON COLUMN air.quality_file.rows_read IS 'Data rows found in it.';
COMMENT ON COLUMN air.quality_file.accepted IS 'Share of its rows that broke no rule, 0 to 1; null: it has none.';
COMMENT ON COLUMN air.quality_file.fresh IS 'Share of its rows that were not known already, 0 to 1. Not part of the score: to come twice is no fault of a reading.';
COMMENT ON COLUMN air.quality_file.typical IS 'Share of its values, 0 to 1, that are of a sensor and quantity with nothing outside the typical range; null: nothing was loaded.';
COMMENT ON COLUMN air.quality_file.score IS '100 times the lowest of accepted and typical; 0: refused; null: retracted, or no rows.';

CREATE VIEW air.quality_sensor_day AS
SELECT sensor_id, day, covered, complete, typical, lively,
       round(100 * least(covered, complete, typical, lively))::integer AS score
  FROM (SELECT sensor_id, day, least(1, max(n) * 148 / 86400.0)::double precision AS covered,
               max(complete_hours) / 24.0::double precision AS complete,
               array_agg(quantity) AS quantities
          FROM air.daily
         GROUP BY sensor_id, day) AS days
  CROSS JOIN LATERAL (
      SELECT (count(*) FILTER (
                  WHERE hourly.min >= typical_low AND hourly.max <= typical_high)
              / count(*)::double precision) AS typical,
             (count(*) FILTER (WHERE hourly.min < hourly.max OR hourly.n < 18)
              / count(*)::double precision) AS lively
        FROM air.hourly
        JOIN air.quantity ON quantity.quantity = hourly.quantity
       WHERE hourly.sensor_id = days.sensor_id
         AND hourly.quantity = ANY (days.quantities)
         AND hourly.hour >= days.day::timestamp AT TIME ZONE 'UTC'
         AND hourly.hour < (days.day + 1)::timestamp AT TIME ZONE 'UTC') AS hours;
COMMENT ON VIEW air.quality_sensor_day IS
    'How good every day of every sensor is, 0 to 100, and why: its score is the lowest of its parts. One row a sensor and day with readings. Name a sensor or a span of days.';
COMMENT ON COLUMN air.quality_sensor_day.sensor_id IS 'The sensor; see air.sensor.';
COMMENT ON COLUMN air.quality_sensor_day.day IS 'The day, UTC.';
COMMENT ON COLUMN air.quality_sensor_day.covered IS 'Share of the readings that one every 148 seconds makes, 0 to 1.';
COMMENT ON COLUMN air.quality_sensor_day.complete IS 'Share of the 24 hours with at least 18 readings, 0 to 1.';
COMMENT ON COLUMN air.quality_sensor_day.typical IS 'Share of its hours, over all quantities, with nothing outside the typical range, 0 to 1.';
COMMENT ON COLUMN air.quality_sensor_day.lively IS 'Share of its hours, over all quantities, that are not complete and yet without any change, 0 to 1.';
COMMENT ON COLUMN air.quality_sensor_day.score IS '100 times the lowest of the four parts.';

CREATE FUNCTION air.qc_flags(sensor integer, since timestamptz, until timestamptz)
RETURNS TABLE (
    ts timestamptz, quantity text, value real,
    gross_range smallint, spike smallint, rate_of_change smallint, flat_line smallint,
    flag smallint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1000
AS $$
    WITH readings AS (
        SELECT raw.ts, cell.quantity, cell.value
          FROM air.raw_particulate AS raw
          CROSS JOIN LATERAL (
              VALUES ('pm10', raw.pm10), ('pm25', raw.pm25), ('pm1', raw.pm1)
          ) AS cell (quantity, value)
         -- Six hours more, to see what has not changed since; and a neighbour on the other side.
         WHERE raw.sensor_id = sensor
           AND raw.ts >= since - interval '6 hours 10 minutes'
           AND raw.ts < until + interval '10 minutes'
        UNION ALL
        SELECT raw.ts, cell.quantity, cell.value
          FROM air.raw_climate AS raw
          CROSS JOIN LATERAL (
              VALUES ('temperature', raw.temperature), ('humidity', raw.humidity),
                     ('pressure', raw.pressure)
          ) AS cell (quantity, value)
         WHERE raw.sensor_id = sensor
           AND raw.ts >= since - interval '6 hours 10 minutes'
           AND raw.ts < until + interval '10 minutes'
    ), measured AS (
        SELECT readings.*, bool_or(readings.value IS NOT NULL)
                   OVER (PARTITION BY readings.quantity) AS ever,
               lag(readings.value) OVER along AS before,
               lead(readings.value) OVER along AS after,
               extract(epoch FROM readings.ts - lag(readings.ts) OVER along) AS seconds_before,
               extract(epoch FROM lead(readings.ts) OVER along - readings.ts) AS seconds_after,
               readings.value IS DISTINCT FROM lag(readings.value) OVER along AS changed
          FROM readings
        WINDOW along AS (PARTITION BY readings.quantity ORDER BY readings.ts)
    ), runs AS (
        SELECT measured.*, count(*) FILTER (WHERE measured.changed) OVER (
                   PARTITION BY measured.quantity ORDER BY measured.ts) AS run
          FROM measured
         WHERE measured.ever
    ), timed AS (
        SELECT runs.*, runs.ts - min(runs.ts) OVER (PARTITION BY runs.quantity, runs.run)
                   AS unchanged
          FROM runs
    ), judged AS (
        SELECT timed.ts, timed.quantity, timed.value,
               CASE
                   WHEN timed.value IS NULL THEN 9
                   WHEN timed.value NOT BETWEEN figures.accept_low::real
                       AND figures.accept_high::real THEN 4
                   WHEN timed.value NOT BETWEEN figures.typical_low
                       AND figures.typical_high THEN 3
                   ELSE 1 END AS gross_range,
               CASE
                   WHEN timed.value IS NULL THEN 9
                   WHEN timed.before IS NULL OR timed.after IS NULL
                       OR timed.seconds_before > 600 OR timed.seconds_after > 600 THEN 2
                   WHEN abs(timed.value - (timed.before + timed.after) / 2) > figures.spike_fail
                       THEN 4
                   WHEN abs(timed.value - (timed.before + timed.after) / 2) > figures.spike_suspect
                       THEN 3
                   ELSE 1 END AS spike,
               CASE
                   WHEN timed.value IS NULL THEN 9
                   WHEN timed.before IS NULL OR timed.seconds_before > 600 THEN 2
                   WHEN abs(timed.value - timed.before)
                       > figures.rate_suspect * greatest(1, timed.seconds_before / 60) THEN 3
                   ELSE 1 END AS rate_of_change,
               CASE
                   WHEN timed.value IS NULL THEN 9
                   WHEN timed.unchanged >= interval '6 hours' THEN 4
                   WHEN timed.unchanged >= interval '3 hours' THEN 3
                   ELSE 1 END AS flat_line
          FROM timed
          JOIN air.quantity AS figures ON figures.quantity = timed.quantity
         WHERE timed.ts >= since AND timed.ts < until
    )
    SELECT judged.ts, judged.quantity, judged.value,
           judged.gross_range::smallint, judged.spike::smallint, judged.rate_of_change::smallint,
           judged.flat_line::smallint,
           (CASE
               WHEN judged.value IS NULL THEN 9
               WHEN 4 IN (judged.gross_range, judged.spike, judged.rate_of_change,
                          judged.flat_line) THEN 4
               WHEN 3 IN (judged.gross_range, judged.spike, judged.rate_of_change,
                          judged.flat_line) THEN 3
               ELSE 1 END)::smallint
      FROM judged
     ORDER BY judged.quantity, judged.ts
$$;
COMMENT ON FUNCTION air.qc_flags(integer, timestamptz, timestamptz) IS
    'Tests of quality on every reading of a sensor from since to before until, with the flags of QARTOD (U.S. Integrated Ocean Observing System): 1 pass, 2 not evaluated, 3 suspect, 4 fail, 9 missing. gross_range: outside the typical (3) or the accepted range (4). spike: far from the middle of its neighbours. rate_of_change: far from the reading before, for the time that passed. flat_line: unchanged for three hours (3) or six (4). flag: the worst of them. Neighbours are at most ten minutes away. The figures are those of air.quantity.';
