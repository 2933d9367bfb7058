"""The SQL statements, one file each; the first line of a file says what it is for."""

from __future__ import annotations

from functools import cache
from importlib.resources import files


@cache
def statement(name: str, **parts: str) -> str:
    """Return the statement in `name`.sql.

    Args:
        name: the file, without its ending.
        parts: identifiers to put in place of `{…}`; never values, those are parameters. Where
            no parameter can stand, `{{…}}` leaves `{…}` for the caller's literals.
    """
    text = files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
    return text.format(**parts) if parts else text
