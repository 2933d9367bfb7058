-- Readings that may be the same as some that were taken back.
CREATE TEMPORARY TABLE retract_stage (
    idx integer, sensor_id integer, ts timestamptz, {columns}) ON COMMIT DROP
