"""Every error this package raises on purpose, in one tree.

::

    PipelineError
    ├── ConfigurationError      a setting is wrong: the start stops, exit code 2
    │   └── DatabaseMissing     the server has no such database; it may be on its way back
    ├── EmbeddedDatabaseError   the private PostgreSQL could not be prepared or started
    │   └── EmbeddedDatabaseUnavailable  and that may pass: it is a DatabaseUnavailable too
    ├── MailRefused             a mail server could not be reached, or did not take a mail
    ├── Terminal                trying again cannot help
    │   ├── FileRefused         the file is unusable as a whole: it goes to quarantine
    │   └── StoreError          the database cannot hold a value of this file
    └── Transient               trying again may help
        ├── DatabaseUnavailable the database is down, restarting, or cut us off
        │   └── Outdated        what was remembered of the database no longer holds
        ├── ClockDoubted        the system's clock is behind: a row may or may not be in the future
        ├── DatabaseTrouble     the database refuses, and no file is the reason
        ├── FileChanged         the file was written to, or vanished, while it was being read
        ├── DiskTrouble         the disk is full, read-only, or denies us; or too many open files
        └── Stopped             we were asked to stop: the batch at hand was rolled back

The type is the retry decision: what is `Transient` is tried again, what is `Terminal` is not.
Messages are written for the person who has to act on them; none contains a secret.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.descriptors import exhausted


class PipelineError(Exception):
    """The root: catch this to catch everything this package raises on purpose."""


class ConfigurationError(PipelineError):
    """A setting is missing, unknown or invalid. Names the key."""


class DatabaseMissing(ConfigurationError):
    """The server has no database of that name: a wrong address, or it is being restored."""


class EmbeddedDatabaseError(PipelineError):
    """The private PostgreSQL could not be prepared or started. Names its log."""


class MailRefused(PipelineError):
    """A mail server could not be reached, or did not take a mail. Names the server."""


class Terminal(PipelineError):
    """Trying again cannot help."""


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


class EmbeddedDatabaseUnavailable(EmbeddedDatabaseError, DatabaseUnavailable):
    """The private PostgreSQL cannot start now: the disk is full, or it still recovers."""


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
    """The disk is full, read-only, or denies access. Names the path.

    Raised from an error that is for want of descriptors, it says that instead: neither the file
    nor the disk is at fault then.
    """

    def __str__(self) -> str:
        """Return the sentence."""
        return exhausted(self.__cause__) or super().__str__()


class Stopped(Transient):
    """We were asked to stop. The batch at hand was rolled back; its files are where they were."""


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
