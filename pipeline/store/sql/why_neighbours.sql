-- The readings of a sensor before and after a time, and its model.
SELECT (SELECT model FROM air.sensor WHERE sensor_id = %(sensor_id)s) AS model,
       greatest((SELECT max(ts) FROM air.raw_particulate
                  WHERE sensor_id = %(sensor_id)s AND ts < %(ts)s),
                (SELECT max(ts) FROM air.raw_climate
                  WHERE sensor_id = %(sensor_id)s AND ts < %(ts)s)) AS previous,
       least((SELECT min(ts) FROM air.raw_particulate
               WHERE sensor_id = %(sensor_id)s AND ts > %(ts)s),
             (SELECT min(ts) FROM air.raw_climate
               WHERE sensor_id = %(sensor_id)s AND ts > %(ts)s)) AS next
