-- One writer at a time: whoever changes readings holds this lock until its transaction ends. What it
-- has remembered of the database holds for as long as the generation is the same.
SELECT pg_advisory_xact_lock(hashtextextended('sofia-air: writer', 0));
SELECT air.current_generation()
