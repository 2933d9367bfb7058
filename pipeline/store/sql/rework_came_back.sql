-- A place for rows that come back, some at a time: their lines, and their texts if they are new.
CREATE TEMPORARY TABLE IF NOT EXISTS came_back (line_no bigint, text text) ON COMMIT DROP
