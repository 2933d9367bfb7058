-- Note which header the later rows of a joined file are read by.
INSERT INTO air.source_section (file_id, first_line, header)
SELECT %(file_id)s, * FROM unnest(%(lines)s::bigint[], %(headers)s::text[])
