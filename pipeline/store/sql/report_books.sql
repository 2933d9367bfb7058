-- The books of the files that belong to the period: their readings lie in it, for `report`.
SELECT count(*) FILTER (WHERE state = 'loaded') AS files,
       count(*) FILTER (WHERE state = 'refused') AS files_refused,
       coalesce(sum(rows_read), 0)::bigint AS rows_read,
       coalesce(sum(rows_loaded), 0)::bigint AS rows_loaded,
       coalesce(sum(rows_duplicate), 0)::bigint AS rows_duplicate,
       coalesce(sum(rows_quarantined), 0)::bigint AS rows_quarantined
  FROM air.source_file AS file
 WHERE state IN ('loaded', 'refused')
   -- A file that brought no reading belongs to the time at which it was taken.
   AND CASE WHEN first_ts IS NULL THEN loaded_at >= %(since)s AND loaded_at < %(until)s
            ELSE first_ts < %(until)s AND last_ts >= %(since)s END
   -- Rows that came back are in the books of their file already.
   AND NOT EXISTS (
       SELECT FROM air.source_file AS parent
        WHERE parent.file_id = file.parent_file_id AND parent.state = 'loaded')
