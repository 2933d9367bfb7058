-- Rejected rows, in the order in which they come, each column of them as one value.
SELECT string_agg(int8send(row.line_no), ''::bytea),
       string_agg(int4send(row.replay_file_id), ''::bytea),
       {cells}
  FROM ({rows}) AS row
