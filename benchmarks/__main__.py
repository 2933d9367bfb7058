"""The command: measure what is asked for, and write the page anew."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import figures, page
from benchmarks.comparisons import COMPARISONS
from benchmarks.place import place
from benchmarks.sides import has_pgloader


def main() -> int:
    """Measure, keep the figures, write the page; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(COMPARISONS)
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"some of: {names}")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side (default 5)")
    parser.add_argument("--folder", type=Path, help="where to work, and to keep input for later")
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    given = parser.parse_args()
    if unknown := set(given.only or ()) - set(COMPARISONS):
        parser.error(f"no such comparison: {', '.join(sorted(unknown))}; there are {names}")
    chosen = [] if given.page else given.only or list(COMPARISONS)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="sofia-air-benchmarks-"))
    kept = figures.load()
    try:
        with place(folder) as there:
            for name in chosen:
                if name == "pgloader" and not has_pgloader():
                    print("pgloader  is not installed: left out", flush=True)
                    continue
                load = os.getloadavg()[0]
                figure = COMPARISONS[name](there, given.repeats)
                figure.when, figure.load = f"{datetime.now(UTC):%Y-%m-%d}", round(load, 1)
                kept[name] = figure
                kept = {each: kept[each] for each in COMPARISONS if each in kept}
                figures.keep(kept)
                verdict = {True: "reached", False: "MISSED", None: ""}[figure.reached]
                print(f"{name:16} {page.shown(figure):>10}  {verdict}  {figure.note}", flush=True)
            version = str(there.ask("postgres", "SELECT current_setting('server_version')")[0])
        page.write(kept, page.machine(version))
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"written: {page.PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
