"""The revision: how far a database was migrated."""

from __future__ import annotations

from pipeline.store.read.reader import Connection
from pipeline.store.sql import statement


def revision(connection: Connection) -> str | None:
    """Return the revision that the database is at, None when it was never migrated."""
    # Looked for first, since a question about a missing table would be an error in the server's
    # log; and by a query, since to_regclass may answer from before the wait for a lock.
    if connection.execute(statement("revision").encode()).fetchone() is None:
        return None
    found = connection.execute("SELECT version_num FROM air.alembic_version").fetchone()
    return None if found is None else str(found[0])
