-- A place for readings some of whose keys are taken, so that the server can compare them.
CREATE TEMPORARY TABLE stage (
    idx integer, sensor_id integer, ts timestamptz, {columns}) ON COMMIT DROP
