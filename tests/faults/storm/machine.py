"""What the machine that a storm runs on allows."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def rights_to_take() -> Sequence[str]:
    """Return a prefix that takes root's way around permissions; none when we are not root."""
    if os.geteuid() or shutil.which("setpriv") is None:
        return ()
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def mounts(room: Path) -> bool:
    """Return whether a filesystem can be mounted here."""
    room.mkdir(parents=True, exist_ok=True)
    tmpfs = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=0755", "sofia-air-storm", str(room)]
    if subprocess.run(tmpfs, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", "-l", str(room)], check=True)
    return True
