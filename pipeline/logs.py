"""Logs: structured events, as JSON lines in `logs/` and in words on a terminal.

Every event has a name (`file.loaded`) and fields, never a sentence with values glued in: people
read it, `jq` filters it, tests assert on it. Events that name a file carry `file` and, once it has
one, `file_id`.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import time
from collections.abc import MutableMapping
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any, cast

from pipeline.files.permissions import FILE_MODE, make_folder
from pipeline.foreign import require_own_file
from pipeline.visible import Styled, visible, visible_json

if TYPE_CHECKING:
    import structlog

LOG_NAME = "sofia-air.jsonl"
_ROTATE_BYTES = 10 * 2**20
_KEPT = 10


class _Logger:
    """A part's logger, which loads structlog with its first event: most commands have none."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        import structlog

        return getattr(structlog.stdlib.get_logger(f"sofia_air.{self._name}"), attribute)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of a part of the program."""
    return cast("structlog.stdlib.BoundLogger", _Logger(name))


def configure(level: str, folder: Path | None, *, console: bool) -> None:
    """Decide where events go. Until this is called, structlog's own defaults hold.

    Args:
        level: least level that is logged.
        folder: where the rotated JSON lines go; None for nowhere.
        console: whether events are shown on standard error too.
    """
    import structlog

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        structlog.processors.UnicodeDecoder(),
        _lead_with_what_and_when,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            _Repeats(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger("sofia_air")
    for handler in list(root.handlers):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level.upper())
    root.propagate = False
    if folder is not None:
        make_folder(folder)
        file = _File(
            folder / LOG_NAME,
            maxBytes=_ROTATE_BYTES,
            backupCount=_KEPT,
            encoding="utf-8",
            delay=True,
        )
        file.setFormatter(_formatter(shared, _ForFile()))
        root.addHandler(file)
    if console:
        shown = logging.StreamHandler(Styled(sys.stderr))
        if "JOURNAL_STREAM" in os.environ:
            shown.setFormatter(_formatter(shared, _for_journal))
        else:
            pretty = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
            shown.setFormatter(_formatter(shared, _escape_values, pretty))
        root.addHandler(shown)
    if not root.handlers:
        root.addHandler(logging.NullHandler())


class _Repeats:
    """Drops what was told about a file within the hour: a full disk is found again at each scan."""

    _NAMES = ("file.not_moved", "file.left")
    _SECONDS = 3600.0
    _MOST = 10_000

    def __init__(self) -> None:
        self._told: dict[tuple[object, ...], float] = {}
        self._dropped: set[object] = set()

    def __call__(
        self, _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        from structlog import DropEvent

        name, file = event.get("event"), event.get("file")
        if name == "file.known" and file in self._dropped:
            self._dropped.discard(file)  # known, since it could not be moved: no news either
            raise DropEvent
        if name not in self._NAMES:
            return event
        now = time.monotonic()
        key = (name, file, event.get("error"), event.get("reason"))
        if now - self._told.get(key, float("-inf")) < self._SECONDS:
            if name == "file.not_moved":
                self._dropped.add(file)
            raise DropEvent
        if len(self._told) >= self._MOST:
            self._told.clear()
        self._told[key] = now
        return event


class _File(logging.handlers.RotatingFileHandler):
    """A log file that cannot be written (a full disk) costs lines, never the work."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  # as it is called
        """Say it once, on standard error; go on."""
        if not self._failed:
            self._failed = True
            error = sys.exc_info()[1]
            print(visible(f"{self.baseFilename}: cannot be written: {error}"), file=sys.stderr)
        # A stream that failed half-way is opened afresh for the next line.
        if self.stream is not None:
            with suppress(OSError):
                self.stream.close()
            self.stream = None

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: ARG002, N802  # as it is called
        """Whether the file is full. The base class would write each line twice to know."""
        return self.stream is not None and self.stream.tell() >= self.maxBytes

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, or give it up."""
        super().emit(record)
        if self._failed and self.stream is not None:
            self._failed = False

    def _open(self) -> TextIOWrapper:
        # For reading too: see `_end_line`.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        # Another user's link or FIFO must not lead root away.
        flags |= os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(self.baseFilename, flags, FILE_MODE)
        stream = TextIOWrapper(os.fdopen(descriptor, "ab"), encoding=self.encoding)
        try:
            require_own_file(descriptor, Path(self.baseFilename))
        except OSError:
            stream.close()
            raise
        with suppress(OSError):
            self._end_line(stream)
        return stream

    def _end_line(self, stream: TextIOWrapper) -> None:
        """Keep the next line apart from one that a full disk, or a crash, cut short."""
        size = os.fstat(stream.fileno()).st_size
        if size and os.pread(stream.fileno(), 1, size - 1) != b"\n":
            stream.write("\n")


_SEVERAL_LINES = {"exception", "stack"}

# journald has the time, and takes the level from a number in front (sd-daemon(3)).
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def _for_journal(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    event.pop("timestamp", None)
    priority = _PRIORITIES.get(event.pop("level", "info"), 6)
    name = event.pop("event")
    fields = " ".join(f"{key}={value!r}" for key, value in event.items())
    return visible(f"<{priority}>{name} {fields}".rstrip())


class _ForFile:
    """Renders an event as a JSON line."""

    def __init__(self) -> None:
        from structlog.processors import JSONRenderer

        self._json = JSONRenderer(ensure_ascii=False, default=str)

    def __call__(self, logger: object, method: str, event: MutableMapping[str, Any]) -> str:
        return visible_json(str(self._json(logger, method, event)))


def _escape_values(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Let no value move the cursor of a terminal, or begin a line that looks like an event."""
    shown: dict[str, Any] = {}
    for key, value in event.items():
        if value is None or isinstance(value, bool | int | float):
            shown[key] = value
        elif key in _SEVERAL_LINES:
            shown[key] = indent(visible(str(value), keep="\n"), "    ")
        else:
            shown[key] = visible(str(value))
    return shown


def _lead_with_what_and_when(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    leading = ("timestamp", "level", "event")
    return {**{key: event[key] for key in leading if key in event}, **event}


def _formatter(shared: list[Any], *render: Any) -> structlog.stdlib.ProcessorFormatter:
    import structlog

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
