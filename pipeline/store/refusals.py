"""Refusals: what the server and the driver say, in the package's own errors.

`guarded` is the one place where the driver's errors become ours, so that the type alone tells
whether trying again can help, and whether a file is to blame. Nothing here ever shows the text of
a statement.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from pipeline.descriptors import exhausted
from pipeline.errors import (
    ConfigurationError,
    DatabaseMissing,
    DatabaseTrouble,
    DatabaseUnavailable,
    PipelineError,
    StoreError,
)

__all__ = ["guarded", "sqlstate", "translate"]

# What trying again may mend, by class (the first two characters of the SQLSTATE).
_TRANSIENT_CLASSES = {
    "08",  # connection exception: the line broke
    "40",  # rolled back: deadlock (40P01), serialization failure (40001), outcome unknown (40003)
    "53",  # out of something that comes back: disk (53100), memory (53200), connections (53300)
    "58",  # the server's own files or disks failed (58030): somebody will see to that machine
    "XX",  # internal error, corruption included: never the fault of the data, so no file may pay
}
_TRANSIENT_STATES = {
    "25006",  # read-only: this was the primary before a failover; the address will lead elsewhere
    "25P03",  # idle_in_transaction_session_timeout cut us off
    "25P04",  # transaction_timeout cut us off
    "55006",  # an object is in use by someone else
    "55P03",  # a lock was not to be had in time
    "57014",  # canceled, by the administrator or statement_timeout
    "57P01",  # the server shuts down
    "57P02",  # the server crashed
    "57P03",  # the server is starting up, or in recovery
    "57P04",  # the database was dropped under us; a restore may be on its way
    "57P05",  # idle_session_timeout cut us off
}
# The door is shut for us: an administrator's business, so neither a matter of waiting a second nor
# of the data. Not `Transient`: a command with a mistyped password should say so at once.
# `ConfigurationError` stops the start, as every wrong setting does, and a person has to mend it.
_SHUT_CLASSES = {
    "28",  # no such role, wrong password, no pg_hba.conf entry
}
_MISSING_CLASS = "3D"  # no such database: a wrong address, or it is being restored
# The bytes of a file can be the reason: it goes to quarantine. Nothing else does, since a good
# file would pay for what somebody did to the database. The rest of class 22 is not among them: what
# is copied was checked before, and has the types of our tables. So a number out of range, a text
# that is too long or a division by zero comes from a column whose type was changed, an index on an
# expression, a generated column.
_OF_THE_FILE_STATES = {
    "22021",  # a byte sequence that is no character
    "22P05",  # a character that the encoding of the database lacks
    "54000",  # program limit exceeded: a line or reason too long for a field. Not 54001 (stack
    # depth), 54011 (columns), 54023 (arguments): these are of the schema or the server's settings
}
_LIMIT = "54000"
# Where the server finds that a field is too long (its own source files). Elsewhere, it is an index
# or a text search that somebody added and that cannot hold a long line.
_FIELD_LIMITS = ("json", "stringinfo", "varlena", "bytea", "array", "mbutils", "heaptuple")
# A message that is not as the protocol has it. While the connection goes on, it is a column whose
# type has another width than ours: each COPY is in the binary format of the table's types.
_PROTOCOL = "08P01"
# ... and nothing is the file's that was raised in a function: then a trigger, a default or a
# generated column computed something of its own, and ours do not. The name of the language is in
# every translation.
_IN_A_FUNCTION = re.compile(r"PL/|SQL function")
# What a COPY was doing, in any language: its table, and its column where there is one.
_COPYING = re.compile(r'^COPY ("[^"]+"|[^\s,]+)(?:, \S+ \d+(?:, \S+ ([^\s:]+))?)?', re.MULTILINE)
# All the rest is trouble of the database, which somebody has to mend: by class or code, what to do.
# The most specific one that is listed holds.
_REMEDIES = {
    "23": "a constraint refuses rows that are right; drop it, or make it accept them",
    "0A": "the database cannot do what is needed; undo what was changed in the schema air",
    "2F": "a function or trigger refuses; drop it, or mend it",
    "P0": "a function or trigger refuses; drop it, or mend it",
    "38": "a function or trigger refuses; drop it, or mend it",
    "39": "a function or trigger refuses; drop it, or mend it",
    "08": "the type of a column was changed: see docs/schema.md, and change it back",
    "22": "something in the database cannot cope with rows that are right: look for a column whose "
    "type was changed, an index on an expression, a generated column or a trigger; undo it",
    "22P03": "the type of a column was changed: see docs/schema.md, and change it back",
    "54": "an index, a generated column or a trigger cannot hold rows that are right; drop it",
    "42": "something in the schema air is missing, renamed or in the way; undo what was changed",
    "3F": "the schema air is missing; restore it, or run `sofia-air db upgrade`",
    "42501": "the role lacks a right; grant it (docs/roles.sql), or use another role",
    "23514": "a constraint refuses rows that are right, or the month's partition is detached; "
    "drop the one, or attach the other",
}
_REMEDY = "undo what was changed in the database"
# While a connection is made, libpq passes the server's words on but not the SQLSTATE. Words in
# another language are not recognised, and count as an outage like every failure to connect.
_SHUT_WORDS = re.compile(
    r"authentication failed for user|no password supplied|no pg_hba\.conf entry"
    r'|role ".*" does not exist|role ".*" is not permitted to log in'
    r'|database ".*" does not exist|permission denied for database'
)
_MISSING_WORDS = re.compile(r'database ".*" does not exist')


@contextmanager
def guarded() -> Iterator[None]:
    """Raise the package's own error for whatever the driver or SQLAlchemy raises inside.

    Raises:
        DatabaseUnavailable: trying again may help.
        ConfigurationError: the server does not let us in.
        DatabaseMissing: it has no such database.
        DatabaseTrouble: the server refused, and no value is the reason.
        StoreError: the server cannot hold a value.
    """
    try:
        yield
    except _foreign() as error:
        raise translate(error) from error
    except OSError as error:
        # A connection takes a descriptor, and the driver does not say so in its own words.
        if (told := exhausted(error)) is None:
            raise
        raise DatabaseUnavailable(told) from error


def sqlstate(error: BaseException) -> str | None:
    """Return the five-character code the server gave, also through SQLAlchemy's wrapping."""
    cause = _driver_error(error)
    return cause.sqlstate if isinstance(cause, psycopg.Error) else None


def translate(error: BaseException) -> PipelineError:
    """Return the error of the package's own tree that says the same; see `guarded`."""
    if isinstance(error, PipelineError):
        return error
    cause, state, told = _driver_error(error), sqlstate(error), _told(error)
    if state is not None:
        if _passes(cause, state):
            return DatabaseUnavailable(told)
        if state[:2] in _SHUT_CLASSES:
            return ConfigurationError(told)
        if state[:2] == _MISSING_CLASS:
            return DatabaseMissing(told)
        if _is_of_the_file(cause, state):
            return StoreError(told)
        gist = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
        return DatabaseTrouble(f"{told}{_where(cause, told)} – {_remedy(state)}", gist)
    if isinstance(cause, psycopg.OperationalError):
        # No SQLSTATE: no server spoke. The connection could not be made, or was lost.
        if _all_say(_MISSING_WORDS, cause):
            return DatabaseMissing(told)
        return (
            ConfigurationError(told) if _all_say(_SHUT_WORDS, cause) else DatabaseUnavailable(told)
        )
    if isinstance(error, _wrappers("DBAPIError")) and getattr(
        error, "connection_invalidated", False
    ):
        return DatabaseUnavailable(told)
    if isinstance(error, _wrappers("TimeoutError")):  # every connection of the pool stayed busy
        return DatabaseUnavailable(told)
    # No server was asked. The driver refuses values that no server could hold; anything else is a
    # mistake of ours, which no file should pay for.
    return StoreError(told) if isinstance(cause, psycopg.DataError) else DatabaseTrouble(told)


def _passes(error: BaseException, state: str) -> bool:
    if state == _PROTOCOL and isinstance(error, psycopg.Error):
        # A pooler, or a server that gives up the connection, says FATAL.
        return error.diag.severity_nonlocalized != "ERROR"
    return state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES


def _is_of_the_file(error: BaseException, state: str) -> bool:
    if state not in _OF_THE_FILE_STATES:
        return False
    if not isinstance(error, psycopg.Error):
        return True
    diag = error.diag
    if state == _LIMIT and not (diag.source_file or "json").startswith(_FIELD_LIMITS):
        return False
    return _IN_A_FUNCTION.search(diag.context or "") is None


def _where(error: BaseException, told: str) -> str:
    """Name the constraint, table and column, where the server's words do not."""
    if not isinstance(error, psycopg.Error):
        return ""
    diag = error.diag
    table = f"{diag.schema_name}.{diag.table_name}" if diag.table_name else None
    named = {"constraint": diag.constraint_name, "column": diag.column_name, "table": table}
    if copying := _COPYING.search(diag.context or ""):
        named["table"] = table or copying[1]
        named["column"] = diag.column_name or copying[2]
    function = re.search(r"PL/\S+ \S+ (\S+)", diag.context or "")
    named["function"] = function.group(1) if function else None
    parts = [
        f"{kind} {name}"
        for kind, name in named.items()
        if name and name.rpartition(".")[2].partition("(")[0] not in told
    ]
    return f" ({', '.join(parts)})" if parts else ""


def _remedy(state: str) -> str:
    return _REMEDIES.get(state) or _REMEDIES.get(state[:2]) or _REMEDY


def _foreign() -> tuple[type[Exception], ...]:
    """Return the errors that are to become ours."""
    return (psycopg.Error, *_wrappers("SQLAlchemyError"))


def _wrappers(name: str) -> tuple[type[Exception], ...]:
    """Return SQLAlchemy's error of a name; none while nobody has loaded it: none can be raised."""
    errors = sys.modules.get("sqlalchemy.exc")
    return () if errors is None else (getattr(errors, name),)


def _driver_error(error: BaseException) -> BaseException:
    wrapped: Any = error
    if isinstance(error, _wrappers("StatementError")):
        wrapped = getattr(error, "orig", None) or error
    return wrapped  # type: ignore[no-any-return]  # an exception


def _all_say(words: re.Pattern[str], error: psycopg.OperationalError) -> bool:
    # With several addresses (localhost often is two) each has its say; all must have shut the door.
    attempts = str(error).split("\n- ")
    return all(words.search(told) for told in attempts[1:] or attempts)


def _told(error: BaseException) -> str:
    """Return what the server said: without the statement, which SQLAlchemy would add."""
    cause = _driver_error(error)
    if isinstance(cause, psycopg.Error):
        told = cause.diag.message_primary or str(cause)
        if cause.diag.message_detail:
            told += f" ({cause.diag.message_detail})"
        if cause.diag.message_hint:
            told += f" (hint: {cause.diag.message_hint})"
    else:
        # str() of SQLAlchemy's own errors adds the statement and a link; the first argument is the
        # sentence alone.
        told = str(cause.args[0]) if cause.args else type(cause).__name__
    return f"database: {' '.join(told.split())}"
