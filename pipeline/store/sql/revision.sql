-- Whether the table is there in which the migrations note how far they are.
SELECT FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
 WHERE nspname = 'air' AND relname = 'alembic_version' AND relkind IN ('r', 'p', 'v', 'm', 'f')
