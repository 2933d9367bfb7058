"""Worker: a process of its own that loads what waits in a home, and says what it took.

It is warm when it begins, as a daemon is: a first, tiny file is loaded before the clock starts.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from pathlib import Path

from pipeline import logs, memory, metrics
from pipeline.config import load_settings
from pipeline.daemon import Daemon
from pipeline.flow import Flow
from pipeline.store import engine as engines
from pipeline.store.load import Store

_WARM = (
    b"sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
    b"999999;SDS011;1;42.7;23.3;2010-01-01T00:00:00;1;;;1;;\n"
)
_MB = 1024 * 1024


def _resident() -> int:
    """Return the bytes that are in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class _Peak(threading.Thread):
    """Watches how much memory is in use."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            self.highest = max(self.highest, _resident())


def _stages() -> dict[str, float]:
    samples = [s for metric in metrics.STAGE_SECONDS.collect() for s in metric.samples]
    return {s.labels["stage"]: s.value for s in samples if s.name.endswith("_total")}


def main(home: Path, url: str) -> None:
    """Load everything in a home's `data/`; print the figures as JSON."""
    memory.choose_allocators()
    settings = load_settings(home)
    settings.quarantine.mkdir(exist_ok=True)
    logs.configure("info", settings.logs, console=False)
    engine = engines.create(url)
    flow = Flow(settings, Store(engine), settings.site_contract(), retry_seconds=10)
    waiting = home / "waiting"
    settings.data.rename(waiting)
    settings.data.mkdir()
    (settings.data / "warm.csv").write_bytes(_WARM)
    list(Daemon(flow, settings).drain())
    settings.data.rename(home / "warm")
    waiting.rename(settings.data)
    for path in settings.data.iterdir():
        os.utime(path, (0, 0))  # long settled
    os.sync()

    peak, before, used = _Peak(), _stages(), resource.getrusage(resource.RUSAGE_SELF)
    peak.start()
    began = time.perf_counter()
    outcomes = list(Daemon(flow, settings).drain())
    seconds = time.perf_counter() - began
    peak.over.set()
    spent = resource.getrusage(resource.RUSAGE_SELF)
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    print(
        json.dumps(
            {
                "seconds": seconds,
                "files": len(outcomes),
                "loaded": sum(row.rows_loaded for row in rows),
                "duplicate": sum(row.rows_duplicate for row in rows),
                "quarantined": sum(row.rows_quarantined for row in rows),
                "peak_mb": peak.highest / _MB,
                "cpu": spent.ru_utime + spent.ru_stime - used.ru_utime - used.ru_stime,
                "stages": {
                    name: value - before.get(name, 0.0) for name, value in _stages().items()
                },
            }
        )
    )
    engine.dispose()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
