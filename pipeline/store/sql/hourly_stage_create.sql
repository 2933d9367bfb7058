-- Statistics on their way into air.hourly.
CREATE TEMPORARY TABLE hourly_stage (
    sensor_id integer, quantity text, hour timestamptz,
    n bigint, min real, max real, mean double precision, m2 double precision) ON COMMIT DROP
