"""The store: everything that talks to PostgreSQL.

The only room that imports psycopg or SQLAlchemy. :mod:`~pipeline.store.tables` says what the
database holds, :mod:`~pipeline.store.migrate` brings a database there, and
:mod:`~pipeline.store.engine` opens it and turns its errors into the package's own.
"""
