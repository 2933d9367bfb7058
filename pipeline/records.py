"""Records: what is known of a file while it is on its way through a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Content:
    """A file as it was found: what it is known by, and its bytes if they are few.

    Attributes:
        path: where it is.
        size: its bytes.
        sha256: their hash, in hex.
        held: the bytes themselves; None when there are too many, or they are held as text.
        identity: device, inode, size, modification time and change time when it was read.
    """

    path: Path
    size: int
    sha256: str
    held: bytes | None
    identity: tuple[int, int, int, int, int]
