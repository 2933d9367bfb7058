"""Fuzz for as long as you like: `python -m tests.fuzz.run --seconds 3600`.

Draws hostile files and takes each through everything that needs no database. What breaks, takes too
long or too much memory is made as small as Hypothesis can, printed, and written to a folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.hostile import Hostile, files
from tests.fuzz.target import take

_ROUND = 50  # examples that share a seed


def main() -> int:
    """Run the fuzzer; return how many findings there were, at most 1."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=60.0, help="how long, by the clock")
    options.add_argument("--seed", type=int, default=0, help="of the first round")
    options.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="a folder")
    options.add_argument("--keep-going", action="store_true", help="also after a finding")
    given_ = options.parse_args()
    deadline = time.monotonic() + given_.seconds
    became: Counter[str] = Counter()
    slowest = 0.0
    findings = 0
    number = given_.seed
    with tempfile.TemporaryDirectory(prefix="sofia-air-fuzz-") as folder:

        def attempt(case: Hostile) -> None:
            nonlocal slowest
            if time.monotonic() > deadline:
                return
            last.write_bytes(case.raw)
            taken = take(case, Path(folder))
            became[taken.rule or "taken"] += 1
            slowest = max(slowest, taken.seconds)

        last = Path(folder) / "last"
        while time.monotonic() < deadline:
            number += 1
            test = settings(
                max_examples=_ROUND,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                verbosity=Verbosity.quiet,
                phases=(Phase.generate, Phase.shrink),
            )(seed(number)(given(files())(attempt)))
            try:
                test()
            except Exception:  # noqa: BLE001  # this is what we are here for
                findings += 1
                given_.findings.mkdir(parents=True, exist_ok=True)
                kept = given_.findings / f"seed-{number}"
                kept.write_bytes(last.read_bytes())
                print(f"--- seed {number}, kept as {kept}", flush=True)
                traceback.print_exc(limit=-6)
                if not given_.keep_going:
                    break
    cases = sum(became.values())
    print(f"{cases:,} files, {findings} findings, slowest {slowest:.2f} s")
    for rule, count in became.most_common():
        print(f"  {rule:20} {count:,}")
    return min(1, findings)


if __name__ == "__main__":
    sys.exit(main())
