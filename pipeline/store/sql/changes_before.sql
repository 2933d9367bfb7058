-- The number after which the newest rows of the feed come, as many as asked for.
SELECT coalesce(
    (SELECT seq FROM air.change ORDER BY seq DESC OFFSET %(newest)s LIMIT 1), 0)
