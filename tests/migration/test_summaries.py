"""The migration that counts rejected rows: it counts those that are there already."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command

from pipeline.store import engine as store_engine
from pipeline.store import migrate
from tests.integration.conftest import ARCHIVE_SDS, SOFIA_SDS, sensor_in
from tests.migration.test_migrations import config_for

HEADERS = {
    1: ARCHIVE_SDS.strip(),
    2: SOFIA_SDS.strip(),
    3: '"sensor_id"\tlocation\tlat\tlon\ttimestamp\tP1\tP2',
    4: None,
    5: "line_no;reasons;" + ARCHIVE_SDS.strip(),
}
LINES = [
    "92;SDS011;42;42.689;23.341;2017-07-01T00:00:00;nan;;;2.5;;",
    "1,92,42,42.689,23.341,2017-07-01T00:00:00,nan,2.5",
    " 92 ;SDS011;42;42.689",
    '"92";SDS011;"4;2";1',
    '"9""2","17",42',
    '"92;SDS011;42',
    '"92"x;SDS011;42',
    '9"2,"1,7",42',
    "",
    ";;;",
    "5;bad;93\t94;95",
    "\t\t94",
    "a number that is much longer than any sensor's,and another one that is long, too;x",
    "ünï;cödé,µ",
    "92\N{REPLACEMENT CHARACTER},\N{REPLACEMENT CHARACTER}",
]
RULES = [["null"], ["null", "null", "range"], ["range", "null"], ["conflict"]]
STATES = {
    "open": (None, None),
    "repaired": (9, "2020-01-01 00:00+00"),
    "discarded": (None, "2020-01-01 00:00+00"),
}


@pytest.fixture
def before(database_url: str) -> Iterator[sa.Engine]:
    """A database of the revision before, with every kind of line under every header."""
    engine = store_engine.create(database_url)
    with engine.begin() as connection:
        command.upgrade(config_for(connection), "0004")
    with engine.begin() as connection:
        for file_id, header in HEADERS.items():
            rows = len(LINES) * len(RULES) * len(STATES)
            connection.execute(
                sa.text(
                    "INSERT INTO air.source_file (file_id, name, sha256, bytes, state, rows_read,"
                    " rows_quarantined, detected_at, loaded_at, contract_version, app_version,"
                    " header) OVERRIDING SYSTEM VALUE VALUES (:id, 'some.csv', :hash, 1, 'loaded',"
                    " :rows, :rows, now(), now(), 'old', '0.1.0', :header)"
                ),
                {"id": file_id, "hash": f"{file_id:064}", "rows": rows, "header": header},
            )
            number = 1
            for line in LINES:
                for rules in RULES:
                    for state, (replay, at) in STATES.items():
                        number += 1
                        connection.execute(
                            sa.text(
                                "INSERT INTO air.quarantined_row (file_id, line_no, line, reasons,"
                                " state, replay_file_id, decided_at) VALUES (:id, :number, :line,"
                                " CAST(:reasons AS jsonb), :state, :replay,"
                                " CAST(:at AS timestamptz))"
                            ),
                            {
                                "id": file_id,
                                "number": number,
                                "line": line,
                                "reasons": json.dumps([{"rule": rule} for rule in rules]),
                                "state": state,
                                "replay": replay,
                                "at": at,
                            },
                        )
    yield engine
    engine.dispose()


def ask(engine: sa.Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


def test_rows_that_are_there_are_counted(before: sa.Engine) -> None:
    rows = ask(before, "SELECT * FROM air.quarantined_row ORDER BY file_id, line_no")
    migrate.upgrade(before)
    due: dict[tuple[Any, ...], Counter[str]] = {}
    for file_id, line, reasons, state, header in ask(
        before,
        "SELECT file_id, line, reasons, quarantined_row.state, header"
        " FROM air.quarantined_row JOIN air.source_file USING (file_id)",
    ):
        rules = tuple(reason["rule"] for reason in reasons)
        due.setdefault((file_id, sensor_in(header, line), rules), Counter())[state] += 1
    kept = {
        (file_id, sensor, tuple(rules)): Counter(counts)
        for file_id, sensor, rules, counts in ask(
            before,
            "SELECT file_id, sensor, rules, jsonb_build_object("
            "'open', open, 'repaired', repaired, 'discarded', discarded)"
            " FROM air.quarantine_summary",
        )
    }
    assert kept == due
    assert ask(before, "SELECT count(*) FROM air.quarantine_summary") == [(len(due),)]
    # Each row names the group that it is counted in.
    assert ask(
        before,
        "SELECT count(*) FROM air.quarantined_row AS row JOIN air.quarantine_summary AS summary"
        " USING (file_id, group_no) WHERE rules = ARRAY(SELECT reason ->> 'rule' FROM"
        " jsonb_array_elements(reasons) WITH ORDINALITY AS told (reason, n) ORDER BY n)",
    ) == [(len(rows),)]
    # Nothing else has changed, and down again nothing at all.
    columns = "file_id, line_no, line, line_bytes, reasons, state, replay_file_id"
    after = ask(before, f"SELECT {columns} FROM air.quarantined_row ORDER BY file_id, line_no")
    assert after == [row[:7] for row in rows]
    with before.begin() as connection:
        command.downgrade(config_for(connection), "0004")
    assert ask(before, "SELECT * FROM air.quarantined_row ORDER BY file_id, line_no") == rows
