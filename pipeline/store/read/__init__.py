"""Reading: questions that are asked of a database, and their answers as typed rows.

A question is a function that takes psycopg's connection. Nothing here imports SQLAlchemy, so that
whoever only reads starts in half the time.
"""
