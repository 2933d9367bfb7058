-- Where readings of a file really were.
CREATE TEMPORARY TABLE mend_stage (
    sensor_id integer, ts timestamptz, location_key integer) ON COMMIT DROP
