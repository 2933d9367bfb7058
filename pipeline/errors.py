"""Every error this package raises on purpose, in one tree.

::

    PipelineError
    ├── ConfigurationError      a setting is wrong: the start stops, exit code 2
    ├── EmbeddedDatabaseError   the private PostgreSQL could not be prepared or started
    ├── MailRefused             a mail server could not be reached, or did not take a mail
    ├── Terminal                trying again cannot help
    │   ├── FileRefused         the file is unusable as a whole: it goes to quarantine
    │   └── StoreError          the database said no to this data, for good
    └── Transient               trying again may help
        ├── DatabaseUnavailable the database is down, restarting, or cut us off
        ├── FileChanged         the file was written to, or vanished, while it was being read
        ├── DiskTrouble         the disk is full, read-only, or denies us
        └── Stopped             we were asked to stop: the batch at hand was rolled back

The type is the retry decision: what is `Transient` is tried again, what is `Terminal` is not.
Messages are written for the person who has to act on them; none contains a secret.
"""

from __future__ import annotations


class PipelineError(Exception):
    """The root: catch this to catch everything this package raises on purpose."""


class ConfigurationError(PipelineError):
    """A setting is missing, unknown or invalid. Names the key."""


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
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.message = message


class StoreError(Terminal):
    """The database rejected the data or the statement, and would again."""


class Transient(PipelineError):
    """Trying again may help."""


class DatabaseUnavailable(Transient):
    """The database is down, starting up, or cut the connection."""


class FileChanged(Transient):
    """The file was written to, replaced or removed while it was being read."""


class DiskTrouble(Transient):
    """The disk is full, read-only, or denies access. Names the path."""


class Stopped(Transient):
    """We were asked to stop. The batch at hand was rolled back; its files are where they were."""
