-- Make the monthly partition that a batch needs, if it is not there.
SELECT air.ensure_month(%(table)s::regclass, %(month)s::date)
