"""Singling out: a batch is committed without the files that it cannot be committed with.

A file that is of no use is refused, and the others go on without it. When the database refuses,
the batch is taken apart until what it refuses stands alone. If a value of the file is the reason,
the file is refused. If the database is, the file is left in `data/` until somebody has mended it,
and all that does not need the broken thing is loaded meanwhile.

A database in which nothing works must not cost an attempt for each file at each scan. So what can
be spent on searching is bounded, and files that failed alone are tried apart from the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pipeline import logs
from pipeline.errors import DatabaseTrouble, FileChanged, FileRefused, StoreError, forget_frames
from pipeline.transaction import Batch

log = logs.get("flow")

_SEARCHES = 48  # attempts that may fail within the time
_SECONDS = 15.0
_SUSPECTS = 10_000


class Singling:
    """Commits batches, and remembers which files the database would not take."""

    def __init__(self) -> None:
        # In the order in which they were tried last.
        self._suspects: dict[str, None] = {}
        self._left = _SEARCHES
        self._since = float("-inf")

    def commit(
        self, batch: Batch, members: Sequence[int], attempt: Callable[[Sequence[int]], None]
    ) -> None:
        """Commit some files of a batch together, but for those that cannot be loaded.

        Args:
            batch: the batch; what is refused or left is noted there.
            members: the positions of the files.
            attempt: commits all of some files that are not settled yet, or raises.

        Raises:
            DatabaseUnavailable: the database stayed away.
            DatabaseTrouble: it refuses, whatever the files.
        """
        while True:
            settled = batch.settled
            error = _failure(attempt, members)
            batch.forget_frames()
            if isinstance(error, (FileRefused, FileChanged)):
                # Noted in the batch: the others go on without it. Those before it go first, on
                # their own: many such files must not have them loaded again and again.
                last = max(batch.settled - settled, default=members[-1])
                before = [p for p in members if p <= last]
                if len(before) < len(members):
                    self.commit(batch, before, attempt)
                    members = [p for p in members if p > last]
                continue
            if isinstance(error, DatabaseTrouble):
                self._take_apart(batch, members, attempt, error)
                return
            if error is not None:
                loading = [p for p in members if p not in batch.settled]
                if not loading:
                    # Reading ahead found the last of them unusable before the database did.
                    if batch.settled != settled:
                        continue
                    raise error
                if len(loading) == 1:
                    batch.refused[loading[0]] = FileRefused("database", str(error))
                    continue
                log.warning("batch.split", files=len(loading), error=str(error))
                for half in _halves(loading):
                    self.commit(batch, half, attempt)
                members = [p for p in members if p in batch.refused and p not in loading]
                if members:
                    continue
            for position in members:
                self._suspects.pop(batch.files[position].sha256, None)
            return

    def _take_apart(
        self,
        batch: Batch,
        members: Sequence[int],
        attempt: Callable[[Sequence[int]], None],
        error: DatabaseTrouble,
    ) -> None:
        """Commit what the database takes; leave the rest."""
        waiting = [p for p in members if p not in batch.known and p not in batch.left]
        if not waiting:
            raise error
        may_search = self._spend()
        suspects = [p for p in waiting if batch.files[p].sha256 in self._suspects]
        others = [p for p in waiting if p not in suspects]
        kinds = _by_kind(batch, waiting)
        if len(waiting) == 1:
            self._suspect(batch.files[waiting[0]].sha256)
            _leave(batch, waiting, error)
        elif suspects and others:
            self.commit(batch, others, attempt)
            self.commit(batch, suspects, attempt)
        elif len(kinds) > 1:
            # A table that is broken concerns only files with its readings.
            for kind in kinds:
                self.commit(batch, kind, attempt)
        elif not may_search:
            _leave(batch, waiting, error)
        elif suspects:
            # Most likely nothing has changed: one is enough to see.
            order = {sha256: number for number, sha256 in enumerate(self._suspects)}
            first = min(suspects, key=lambda p: order[batch.files[p].sha256])
            self.commit(batch, [first], attempt)
            rest = [p for p in suspects if p != first]
            if first in batch.left:
                _leave(batch, rest, error)
            else:
                self.commit(batch, rest, attempt)
        else:
            for half in _halves(waiting):
                self.commit(batch, half, attempt)

    def _spend(self) -> bool:
        """Count a failure; return whether we may go on searching."""
        now = time.monotonic()
        if now - self._since > _SECONDS:
            self._since, self._left = now, _SEARCHES
        self._left -= 1
        return self._left > 0

    def _suspect(self, sha256: str) -> None:
        self._suspects.pop(sha256, None)
        if len(self._suspects) >= _SUSPECTS:
            self._suspects.clear()
        self._suspects[sha256] = None


def _failure(
    attempt: Callable[[Sequence[int]], None], members: Sequence[int]
) -> FileRefused | FileChanged | DatabaseTrouble | StoreError | None:
    """Return why an attempt failed; when the next is made, nothing of this one is in memory."""
    try:
        attempt(members)
    except (FileRefused, FileChanged, DatabaseTrouble, StoreError) as error:
        forget_frames(error)
        return error
    return None


def _halves(members: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    half = len(members) // 2
    return members[:half], members[half:]


def _by_kind(batch: Batch, members: Sequence[int]) -> list[list[int]]:
    """Put files together that have the same readings."""
    small = {block.segments[0].file: block.header.readings for block in batch.small}
    kinds: dict[frozenset[str], list[int]] = {}
    for position in members:
        kinds.setdefault(small.get(position, frozenset()), []).append(position)
    return list(kinds.values())


def _leave(batch: Batch, members: Sequence[int], error: DatabaseTrouble) -> None:
    for position in members:
        batch.refused.pop(position, None)
        batch.twins.pop(position, None)
        batch.left[position] = error
    # Files with the same bytes as one of these wait with it.
    for twin, first in list(batch.twins.items()):
        if first in batch.left:
            del batch.twins[twin]
            batch.left[twin] = error
