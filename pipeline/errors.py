"""Every error this package raises on purpose, in one tree.

::

    PipelineError
    ├── Terminal                trying again cannot help
    │   ├── NotFound            nothing is there of what was asked for
    │   ├── Conflict            it exists already, or is in a state that rules this out
    │   ├── InvalidArgument     what was asked for makes no sense
    │   ├── ConfigurationError  a setting is wrong, or the installation: the start stops
    │   │   └── DatabaseMissing the server has no such database; it may be on its way back
    │   ├── FileRefused         the file is unusable as a whole: it goes to quarantine
    │   └── StoreError          the database cannot hold a value of this file
    ├── Transient               trying again may help
    │   ├── DatabaseUnavailable the database is down, restarting, or cut us off
    │   │   └── Outdated        what was remembered of the database no longer holds
    │   ├── ClockDoubted        the system's clock is behind: a row may or may not be in the future
    │   ├── DatabaseTrouble     the database refuses, and no file is the reason
    │   ├── FileChanged         the file was written to, or vanished, while it was being read
    │   ├── DiskTrouble         the disk is full, read-only, or denies us; or too many open files
    │   ├── HomeInUse           another daemon owns the home folder; it may end
    │   ├── MailRefused         a mail server could not be reached, or did not take a mail
    │   └── Stopped             shutdown was requested: the batch at hand was rolled back
    └── EmbeddedDatabaseError   the private PostgreSQL could not be prepared or started
        └── EmbeddedDatabaseUnavailable  and that may pass: it is a DatabaseUnavailable too

The type is the retry decision: what is `Transient` is tried again, what is `Terminal` is not.
Messages are written for the person who has to act on them; none contains a secret, and none names
an option of the command line, which is not the only caller: it adds them (`pipeline.cli`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


class PipelineError(Exception):
    """The root: catch this to catch everything this package raises on purpose."""


class Terminal(PipelineError):
    """Trying again cannot help.

    Args:
        message: what it is and what to do.
        argument: what of the caller's it is about, for example `day`; None: nothing that has a
            name, or the message says it.
    """

    def __init__(self, message: str, argument: str | None = None) -> None:
        super().__init__(message)
        self.argument = argument


class NotFound(Terminal):
    """Nothing is there of what was asked for. Names it."""


class Conflict(Terminal):
    """What was asked for exists already, or is in a state that rules it out. Says which."""


class InvalidArgument(Terminal):
    """What was asked for makes no sense. Says what would."""


class ConfigurationError(Terminal):
    """A setting is missing, unknown or invalid, or the installation is. Names the key."""


class DatabaseMissing(ConfigurationError):
    """The server has no database of that name: a wrong address, or it is being restored."""


class FileRefused(Terminal):
    """The file is unusable as a whole.

    Args:
        rule: machine-readable name of what was broken, for example ``unknown_header``.
        message: what was found, and what would have been accepted.
        sample: some of its lines, where that helps: `line_no`, `line` and `reason` of each.
    """

    def __init__(
        self, rule: str, message: str, sample: Sequence[Mapping[str, object]] = ()
    ) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message
        self.sample = sample


class StoreError(Terminal):
    """The database cannot hold a value that the file brings, and never will."""


class Transient(PipelineError):
    """Trying again may help."""


class DatabaseUnavailable(Transient):
    """The database is down, starting up, or cut the connection."""


class ClockDoubted(Transient):
    """The system's clock is behind, and so a row cannot be judged. The file waits in `data/`."""


class Outdated(DatabaseUnavailable):
    """The database was restored or edited under us: what was remembered of it is forgotten.

    Nothing was committed. Trying again at once helps, since all is looked up anew.
    """


class DatabaseTrouble(Transient):
    """The database refuses, and the reason is not in any file: somebody has to mend the database.

    A table or a right is missing, say, or a constraint or trigger that is not ours says no. Files
    wait, and go in once it is mended.

    Args:
        message: what it is and what to do.
        gist: the same without what differs from row to row, to be said once.
    """

    def __init__(self, message: str, gist: str | None = None) -> None:
        super().__init__(message)
        self.gist = gist or message


class FileChanged(Transient):
    """The file was written to, replaced or removed while it was being read."""


class DiskTrouble(Transient):
    """The disk is full, read-only, or denies access; or this process has too many files open.

    Args:
        message: what it is and what to do (`pipeline.files.disk` finds the words).
        path: the file or folder.
    """

    def __init__(self, message: str, path: Path | None = None) -> None:
        super().__init__(message)
        self.path = path


class HomeInUse(Transient):
    """Another daemon owns the home folder. Says which."""


class MailRefused(Transient):
    """A mail server could not be reached, or did not take a mail. Names the server."""


class Stopped(Transient):
    """Shutdown was requested. The batch at hand was rolled back; its files are where they were."""


class EmbeddedDatabaseError(PipelineError):
    """The private PostgreSQL could not be prepared or started. Names its log."""


class EmbeddedDatabaseUnavailable(EmbeddedDatabaseError, DatabaseUnavailable):
    """The private PostgreSQL cannot start now: the disk is full, or it still recovers."""


def forget_frames(error: BaseException | None) -> None:
    """Keep of an error what it says, and not what was in memory where it was raised.

    Its frames hold their variables, whole blocks of a file among them, for as long as it is kept.

    Args:
        error: the error, whose causes are treated alike; None for none.
    """
    left = [error]
    while left:
        error = left.pop()
        if error is not None and error.__traceback__ is not None:
            error.__traceback__ = None
            left += [error.__cause__, error.__context__]
