-- One writer at a time: whoever changes readings holds this lock until its transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended('sofia-air: writer', 0))
