-- How many days of sensors were above each guideline and limit for days, for `report`.
SELECT judged.standard, judged.quantity, judged.limit_value, judged.allowed_days,
       count(daily.day) AS sensor_days, count(above.day) AS sensor_days_above,
       count(DISTINCT daily.sensor_id) AS sensors,
       count(DISTINCT above.sensor_id) AS sensors_above
  FROM air.limit_value AS judged
  LEFT JOIN air.daily_complete AS daily
    ON daily.quantity = judged.quantity AND daily.complete
   AND daily.day >= %(first)s AND daily.day < %(after)s
  LEFT JOIN air.exceedance AS above
    ON above.sensor_id = daily.sensor_id AND above.quantity = daily.quantity
   AND above.day = daily.day AND above.standard = judged.standard
 WHERE judged.period = 'day'
 GROUP BY judged.standard, judged.quantity, judged.limit_value, judged.allowed_days
 ORDER BY judged.quantity DESC, judged.limit_value
