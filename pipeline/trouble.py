"""Trouble: says once that something is wrong, and when it is over."""

from __future__ import annotations

from pipeline import logs
from pipeline.errors import DatabaseTrouble, PipelineError

log = logs.get("daemon")


class Trouble:
    """Says what is wrong once, not at every turn, and says when it is over."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._current: str | None = None

    def tell(self, error: PipelineError, **fields: object) -> None:
        """Say what is wrong, unless that was said."""
        text = str(error)
        gist = error.gist if isinstance(error, DatabaseTrouble) else text
        if gist not in self._said:
            log.error("batch.failed", error=text, **fields)
        self._said.add(gist)
        self._current = text

    def note(self, message: str | None) -> None:
        """Remember that not all is well; the flow has told it."""
        self._current = message

    def over(self) -> None:
        """Say that all is well again, if it was not."""
        if self._current is not None:
            log.info("batch.recovered", after=self._current)
            self._current = None
            self._said.clear()
