"""Descriptors: how many files this process may have open, and what to say when that is not enough.

Every open file, connection and watch takes one. A process may usually have 1,024, and may raise
that itself up to a hard limit.
"""

from __future__ import annotations

import errno
import os
import resource

_WANTED = 16_384
_EXHAUSTED = {errno.EMFILE, errno.ENFILE}


def raise_limit() -> int:
    """Let this process have more files open, as far as it may; return how many it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _WANTED if hard == resource.RLIM_INFINITY else min(_WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def exhausted(error: BaseException | None) -> str | None:
    """Return what to say of an error that is for want of descriptors; None for any other."""
    if not isinstance(error, OSError) or error.errno not in _EXHAUSTED:
        return None
    if error.errno == errno.ENFILE:
        return (
            "too many open files on this machine: end what holds them, or raise fs.file-max; it is "
            "tried again"
        )
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        f"too many open files: this process may have {soft:,}; raise LimitNOFILE in the service's "
        "unit, or `ulimit -n`; it is tried again"
    )


def require(number: int) -> None:
    """Make sure that so many descriptors are free just now.

    Raises:
        OSError: they are not; says what to do.
    """
    taken: list[int] = []
    try:
        while len(taken) < number:
            taken += os.pipe()
    except OSError as error:
        raise OSError(error.errno, exhausted(error) or error.strerror) from error
    finally:
        for descriptor in taken:
            os.close(descriptor)
