-- The newest day before a given one on which some sensor has a complete day, or else any reading.
SELECT coalesce(max(day) FILTER (WHERE complete), max(day)) AS day
  FROM air.daily_complete
 WHERE day < %(before)s
