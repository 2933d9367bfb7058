"""Reading: the questions that are asked of a database, and their answers as typed rows.

::

    Reader.snapshot() ──► connection ──► books.totals(connection) ──► Totals

A question is a function that takes psycopg's connection; who asks several of them on one connection
gets answers of one moment. Nothing here imports SQLAlchemy: a command that only reads starts in
half the time.
"""
