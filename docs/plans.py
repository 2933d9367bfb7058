"""Measure the queries of `docs/queries` on a database, and write their plans into `docs/plans.md`.

    python -m docs.plans postgresql://... "2 cores, shared"

Each query is asked fifteen times, over a connection of its own each time; the plan is that of the
fastest run (what else the machine does is no matter of the query), without what was never executed.
Only the whole is timed: a clock on every step would slow it down. Sensor and day are the database's
own: a sensor with readings of dust, and the day of the newest hour.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from pathlib import Path

from docs.generate import ask

FOLDER = Path(__file__).resolve().parent
RUNS = 15
# Values alone, without a table around them.
_PLAIN = ("-A", "-t")
_EXPLAIN = "EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF)"
_SECONDS = re.compile(r"^ *(?:Planning|Execution) Time: ([\d.]+) ms", re.MULTILINE)


def variables(url: str) -> dict[str, str]:
    """Return what to ask for: a sensor of dust, the newest day, and the month before it."""
    question = (
        "SELECT sensor_id, max(day), date_trunc('month', max(day) - interval '1 month')::date"
        " FROM air.daily WHERE quantity = 'pm25' GROUP BY sensor_id"
        " ORDER BY max(day) DESC, sum(n) DESC, sensor_id LIMIT 1"
    )
    sensor, today, month = ask(url, question, *_PLAIN).strip().split("|")
    return {"sensor": sensor, "today": today, "month": month}


def measured(url: str, sql: str, given: dict[str, str]) -> tuple[float, str]:
    """Return the milliseconds that a query takes, planning included, and its plan."""
    options = [word for name, text in given.items() for word in ("-v", f"{name}={text}")]
    comment, _, query = sql.partition("\n")
    plans = []
    for _ in range(RUNS):
        plan = ask(url, f"{comment}\n{_EXPLAIN}\n{query}", *_PLAIN, *options)
        plans.append((sum(map(float, _SECONDS.findall(plan))), plan))
    return min(plans)


def executed(plan: str) -> str:
    """Return a plan without the parts that were never executed, such as other months."""
    kept = []
    hidden = 10_000
    for line in plan.rstrip().split("\n"):
        depth = len(line) - len(line.lstrip())
        if depth > hidden:
            continue
        hidden = depth if line.endswith("(never executed)") else 10_000
        if hidden == 10_000:
            kept.append(line)
    return "\n".join(kept)


def page(url: str, machine: str) -> str:
    """Return the page."""
    given = variables(url)
    rows, months, hours, days, version = (
        ask(
            url,
            "SELECT to_char((SELECT count(*) FROM air.raw_particulate)"
            " + (SELECT count(*) FROM air.raw_climate), 'FM999,999,999'),"
            " (SELECT count(*) FROM pg_inherits WHERE inhparent = 'air.raw_particulate'::regclass),"
            " to_char((SELECT count(*) FROM air.hourly), 'FM999,999,999'),"
            " to_char((SELECT count(*) FROM air.daily), 'FM999,999,999'),"
            " current_setting('server_version')",
            *_PLAIN,
        )
        .strip()
        .split("|")
    )
    told = (
        f"Written by `python -m docs.plans`. Measured on PostgreSQL {version}, {machine}, with "
        f"{rows} raw readings in {months} months, {hours} rows in `air.hourly` and {days} in "
        "`air.daily`. Times are those of the server, planning included; each is the fastest of "
        f"{RUNS} runs, each over a new connection. Parts of a plan that were never executed, such "
        "as months that a question is not about, are left out."
    )
    parts = [
        "# How fast four questions are answered\n",
        textwrap.fill(told, 100) + "\n",
        "| question | file | milliseconds |",
        "| --- | --- | ---: |",
    ]
    plans = []
    for path in sorted((FOLDER / "queries").glob("*.sql")):
        sql = path.read_text(encoding="utf-8")
        title = sql.partition("\n")[0].removeprefix("-- ").rstrip(".")
        milliseconds, plan = measured(url, sql, given)
        link = f"[`{path.name}`](queries/{path.name})"
        parts.append(f"| {title} | {link} | {milliseconds:.0f} |")
        plans.append(f"\n## {title}\n\n```sql\n{sql}```\n\n```text\n{executed(plan)}\n```")
    asked = ", ".join(f"`{name}` = {text}" for name, text in given.items())
    return "\n".join([*parts, f"\nAsked with {asked}.", *plans]) + "\n"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="address of the database")
    parser.add_argument("machine", help="what it runs on, in a few words")
    given = parser.parse_args()
    text = page(given.url, given.machine)
    (FOLDER / "plans.md").write_text(text, encoding="utf-8")
    sys.stdout.write(text.partition("\n## ")[0] + "\n")


if __name__ == "__main__":
    main()
