"""Keys: the file that a person means by a name, number or hash; and who that person is."""

from __future__ import annotations

import getpass
import os
from collections.abc import Sequence

from pipeline.errors import InvalidArgument, NotFound
from pipeline.store.read.entries import Entry
from pipeline.store.rework import Workbench


def whoever() -> str:
    """Return the name of the user who decides."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return f"user {os.getuid()}"


def one(bench: Workbench, key: str) -> Entry:
    """Return the one file of this name, number or hash.

    Raises:
        NotFound: the ledger has no such file.
        InvalidArgument: it has several; says which.
    """
    return chosen(bench.entries(key), key)


def chosen(entries: Sequence[Entry], key: str) -> Entry:
    """Return the one that a person means, of those that the ledger has by a key.

    Raises:
        NotFound: there is none.
        InvalidArgument: there are several; says which.
    """
    if key.isdecimal():
        entries = [entry for entry in entries if str(entry.file_id) == key] or entries
    if not entries:
        message = f"'{key}': the ledger has no file of this name, number or hash"
        raise NotFound(message)
    if len({entry.sha256 for entry in entries}) > 1:
        numbers = ", ".join(str(entry.file_id) for entry in entries[:10])
        message = f"'{key}': several files are called so; give a number: {numbers}"
        raise InvalidArgument(message)
    # The same bytes may have been retracted and loaded again.
    return next((entry for entry in entries if entry.state != "retracted"), entries[0])
