-- Rows that somebody does not want.
UPDATE air.quarantined_row
   SET state = 'discarded', decided_at = clock_timestamp(), decided_by = %(by)s, note = %(note)s
 WHERE file_id = %(file_id)s AND state = 'open'
   AND (%(lines)s::bigint[] IS NULL OR line_no = ANY (%(lines)s))
   AND (%(rule)s::text IS NULL
        OR reasons @> jsonb_build_array(jsonb_build_object('rule', %(rule)s::text)))
RETURNING line_no
