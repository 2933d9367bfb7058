"""What the integration tests share: a site with its folders and a real database, and its books."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings

from pipeline.config import Settings, load_settings
from pipeline.files.watch import Found, Ignored, scan
from pipeline.flow import Flow, Outcome, batches
from pipeline.spreadsheet import MARK, restored
from pipeline.store import engine as store_engine
from pipeline.store.groups import OTHERS
from pipeline.store.load import Store
from tests import feed

if TYPE_CHECKING:
    from pytest_postgresql.executors import NoopExecutor

    from pipeline.store.read.reader import Reader
    from tests.conftest import Server

# The same examples on every machine and every run: a red test must be red for everybody.
settings.register_profile(
    "pipeline",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("pipeline")


def in_small_blocks(settings: Settings, **sizes: int) -> Settings:
    """Return settings with smaller blocks than anybody may set: short files have several."""
    return settings.model_copy(update={"load": settings.load.model_copy(update=sizes)})


ARCHIVE_SDS = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2\n"
ARCHIVE_BME = (
    "sensor_id;sensor_type;location;lat;lon;timestamp;"
    "pressure;altitude;pressure_sealevel;temperature;humidity\n"
)
ARCHIVE_DS18B20 = "sensor_id;sensor_type;location;lat;lon;timestamp;temperature\n"
SOFIA_SDS = ",sensor_id,location,lat,lon,timestamp,P1,P2\n"
SOFIA_BME = ",sensor_id,location,lat,lon,timestamp,pressure,temperature,humidity\n"

# Everything a load writes, in an order that does not depend on how the rows lie on disk. Numbers
# that a sequence gives out and clock times are compared by what they stand for.
_TABLES = {
    "source_file": "SELECT name, sha256, bytes, dialect, sensor_model, state, rows_read,"
    " rows_loaded, rows_duplicate, rows_quarantined, first_ts, last_ts, rule, reason, file_id,"
    " loaded_at FROM air.source_file",
    "sensor": "SELECT * FROM air.sensor",
    "location": "SELECT * FROM air.location",
    "raw_particulate": "SELECT * FROM air.raw_particulate",
    "raw_climate": "SELECT * FROM air.raw_climate",
    "source_section": "SELECT * FROM air.source_section",
    "quarantined_row": "SELECT file_id, line_no, line, line_bytes, reasons::text, state,"
    " replay_file_id FROM air.quarantined_row",
    "file_aggregate": "SELECT * FROM air.file_aggregate",
    "hourly": "SELECT * FROM air.hourly",
    "daily": "SELECT * FROM air.daily",
    "sensor_place": "SELECT * FROM air.sensor_place",
}
# The rollup, worked out anew by PostgreSQL itself from the raw tables.
_HOURLY_ANEW = " UNION ALL ".join(
    f"SELECT sensor_id, '{name}' AS quantity, date_trunc('hour', ts) AS hour, count({name}) AS n,"
    f" min({name}), max({name}), avg({name}::double precision) AS mean,"
    f" stddev_samp({name}::double precision) AS std FROM air.{table}"
    f" GROUP BY sensor_id, date_trunc('hour', ts) HAVING count({name}) > 0"
    for table, names in {
        "raw_particulate": ("pm10", "pm25", "pm1"),
        "raw_climate": ("temperature", "humidity", "pressure"),
    }.items()
    for name in names
)
_DATE = "(ts AT TIME ZONE 'UTC')::date"
_DAILY_ANEW = _HOURLY_ANEW.replace(
    "GROUP BY sensor_id, date_trunc('hour', ts)", f"GROUP BY sensor_id, {_DATE}"
).replace(
    "date_trunc('hour', ts) AS hour",
    f"{_DATE} AS day, count(DISTINCT date_trunc('hour', ts)) AS hours",
)
# Whether what is kept is what was worked out anew, but for rounding.
_SAME = "kept.n = anew.n AND kept.min = anew.min AND kept.max = anew.max" + "".join(
    f" AND (abs(kept.{name} - anew.{name}) <= 1e-9 * greatest(abs(anew.{name}), 1e-3)"
    f" OR (kept.{name} IS NULL AND anew.{name} IS NULL))"
    for name in ("mean", "std")
)
# Who stood where, worked out anew by PostgreSQL itself from the raw tables.
_PLACES_ANEW = (
    "SELECT sensor_id, location_key, min(ts) AS first_ts, max(ts) AS last_ts FROM ("
    "SELECT sensor_id, location_key, ts FROM air.raw_particulate"
    " UNION ALL SELECT sensor_id, location_key, ts FROM air.raw_climate) AS readings"
    " GROUP BY sensor_id, location_key"
)


@dataclass
class Site:
    """A home folder and a database, with the real flow between them."""

    settings: Settings
    engine: sa.Engine
    taken: dict[Path, str] = field(default_factory=dict)
    # Somebody is at work on the sheets in quarantine/: they show more than the rows as they stood.
    edited: bool = False
    flow: Flow = field(init=False)

    def __post_init__(self) -> None:
        self.settings.data.mkdir(parents=True, exist_ok=True)
        self.reopen()

    def reopen(self) -> None:
        """Start anew, as a new process does: nothing is remembered."""
        store = Store(self.engine)
        self.flow = Flow(self.settings, store, self.settings.site_contract(), retry_seconds=2.0)

    # --- files

    @property
    def data(self) -> Path:
        return self.settings.data

    @property
    def reader(self) -> Reader:
        return store_engine.reader_of(self.engine)

    @property
    def quarantine(self) -> Path:
        return self.settings.quarantine

    def drop(self, name: str | bytes, content: str | bytes) -> Path:
        """Put a file into data/; files dropped later are taken later."""
        path = self.data / os.fsdecode(name)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        moment = 1_700_000_000 + len(self.taken)
        self.taken[path] = name if isinstance(name, str) else repr(name)
        os.utime(path, (moment, moment))
        return path

    def scan(self) -> list[Found]:
        return scan(self.data)[0]

    def ignored(self) -> dict[str, str]:
        """Return name → why it is left alone."""
        left: list[Ignored] = scan(self.data)[1]
        return {entry.name: entry.reason for entry in left}

    def run(self, found: Sequence[Found] | None = None) -> list[Outcome]:
        """Take what lies in data/ through every step."""
        found = self.scan() if found is None else found
        return [o for batch in batches(found, self.settings) for o in self.flow.process(batch)]

    def load(self, content: str | bytes, name: str | bytes = "some.csv") -> Outcome:
        """Drop one file and run; return what became of it."""
        path = self.drop(name, content)
        (outcome,) = [o for o in self.run() if o.path == path]
        return outcome

    def archived(self) -> list[str]:
        """Return the names of the files in the archive."""
        return sorted(p.name for p in self.settings.archive_folder.rglob("*") if p.is_file())

    def quarantined_files(self) -> list[str]:
        """Return the names of everything in quarantine/."""
        if not self.quarantine.is_dir():
            return []
        return sorted(p.name for p in self.quarantine.iterdir())

    def refusal(self, content: str | bytes) -> dict[str, Any]:
        """Return what stands beside a refused file in quarantine, and check the file is there."""
        raw = content.encode() if isinstance(content, str) else content
        digest = hashlib.sha256(raw).hexdigest()
        (reason,) = self.quarantine.glob(f"*.{digest[:12]}.refused.json")
        (moved,) = (p for p in self.quarantine.glob(f"*.{digest[:12]}.refused.*") if p != reason)
        assert moved.read_bytes() == raw
        told: dict[str, Any] = json.loads(reason.read_text())
        assert told["sha256"] == digest
        assert told["bytes"] == len(raw)
        return told

    # --- database

    def sql(self, query: str, **parameters: object) -> list[tuple[Any, ...]]:
        with self.engine.begin() as connection:
            found = connection.execute(sa.text(query), parameters)
            return [tuple(row) for row in found] if found.returns_rows else []

    def one(self, query: str, **parameters: object) -> Any:
        ((value,),) = self.sql(query, **parameters)
        return value

    def ledger(self, name: str = "some.csv") -> dict[str, Any]:
        with self.engine.begin() as connection:
            query = "SELECT * FROM air.source_file WHERE name = :name"
            (row,) = connection.execute(sa.text(query), {"name": name}).mappings()
            return dict(row)

    def counts(self, name: str = "some.csv") -> tuple[int, int, int, int]:
        """Return read, loaded, duplicate and quarantined rows of a file."""
        row = self.ledger(name)
        books = ("rows_read", "rows_loaded", "rows_duplicate", "rows_quarantined")
        read, loaded, duplicate, quarantined = (row[name] for name in books)
        return read, loaded, duplicate, quarantined

    def rejected(self, name: str = "some.csv") -> dict[int, Bad]:
        """Return line number → rejected row."""
        query = (
            "SELECT line_no, line, line_bytes, reasons FROM air.quarantined_row"
            " JOIN air.source_file USING (file_id) WHERE name = :name ORDER BY line_no"
        )
        return {
            line_no: Bad(line, None if exact is None else bytes(exact), reasons)
            for line_no, line, exact, reasons in self.sql(query, name=name)
        }

    def raw_rows(self) -> int:
        return sum(
            int(self.one(f"SELECT count(*) FROM air.{table}"))
            for table in ("raw_particulate", "raw_climate")
        )

    def dump(self) -> dict[str, list[str]]:
        """Return every table's contents, sorted."""
        return {name: sorted(map(repr, self.sql(query))) for name, query in _TABLES.items()}

    # --- the laws

    def check_books(self) -> None:
        """Every number in the ledger is what is really there, and nothing is stale."""
        for row in self.sql(
            "SELECT file_id, name, state, rows_read, rows_loaded, rows_duplicate,"
            " rows_quarantined, sha256 FROM air.source_file"
        ):
            file_id, name, state, read, loaded, duplicate, quarantined, sha256 = row
            assert read == loaded + duplicate + quarantined, name
            here = {"file_id": file_id}
            raw = [
                self.one(f"SELECT count(*) FROM air.{table} WHERE file_id = :file_id", **here)
                for table in ("raw_particulate", "raw_climate")
            ]
            assert sum(raw) == (loaded if state == "loaded" else 0), name
            kept = "SELECT line_no, line, line_bytes FROM air.quarantined_row WHERE file_id = :f"
            assert len(self.sql(kept, f=file_id)) == quarantined, name
            if state == "refused":
                assert read == 0, name
            lines = self.sql(kept + " AND state = 'open' ORDER BY line_no", f=file_id)
            if state == "retracted":
                assert lines == [], name
            else:
                self._check_quarantine_files(name, sha256, lines)
        # A replay's books are those of the rows that it brought back.
        assert not self.sql(
            "SELECT replay.file_id FROM air.source_file AS replay"
            " JOIN air.source_file AS parent ON parent.file_id = replay.parent_file_id"
            " WHERE replay.state = 'loaded' AND parent.state = 'loaded' AND replay.rows_read <>"
            " (SELECT count(*) FROM air.quarantined_row AS row"
            " WHERE row.replay_file_id = replay.file_id AND row.file_id = parent.file_id)"
        )
        assert self.rollup_differs() == []
        assert self._files_differ() == []
        assert self.places_differ() == []
        assert self.summary_differs() == {}
        assert feed.broken(lambda question: self.sql(question.replace(":", r"\:"))) == {}

    def _check_quarantine_files(self, name: str, sha256: str, lines: list[tuple[Any, ...]]) -> None:
        tables = list(self.quarantine.glob(f"*.{sha256[:12]}.csv"))
        logs = list(self.quarantine.glob(f"*.{sha256[:12]}.reasons.jsonl"))
        assert len(tables) == len(logs) == bool(lines), name
        if lines:
            text = tables[0].read_bytes().decode("utf-8-sig")
            delimiter = next(mark for mark in ";,\t|" if text.startswith(f"line_no{mark}reasons"))
            rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
            numbers = [line_no for line_no, _, _ in lines]
            told = [json.loads(line) for line in logs[0].read_text().split("\n")[:-1]]
            # The rows of a file with several headers stand by header, each below its own.
            several = self.one(
                "SELECT count(*) FROM air.source_section JOIN air.source_file USING (file_id)"
                " WHERE sha256 = :sha256",
                sha256=sha256,
            )
            rows[1:] = [row for row in rows[1:] if row[0] != "line_no"]
            if several:
                rows[1:] = sorted(rows[1:], key=lambda row: int(row[0]))
                told.sort(key=lambda record: record["line_no"])
            assert [int(row[0]) for row in rows[1:]] == numbers, name
            assert [record["line_no"] for record in told] == numbers, name
            shown = [record["line"].replace("\0", "\N{REPLACEMENT CHARACTER}") for record in told]
            assert shown == [line for _, line, _ in lines], name
            # The fields, too, are those of the line, for as far as it has any.
            for row, record in zip(rows[1:], told, strict=True):
                if several and delimiter not in record["line"]:
                    continue  # of a part with another delimiter
                cells = list(map(restored, row[2:]))
                assert (MARK in row[1]) == (cells != row[2:]), name
                assert self.edited or cells == _fields(record["line"], delimiter), name

    def rollup_differs(self) -> list[tuple[Any, ...]]:
        """Compare hours and days with a recompute in SQL."""
        hours = self.sql(
            f"WITH anew AS ({_HOURLY_ANEW}) SELECT * FROM air.hourly AS kept"
            f" FULL JOIN anew USING (sensor_id, quantity, hour) WHERE ({_SAME}) IS NOT TRUE"
        )
        days = self.sql(
            f"WITH anew AS ({_DAILY_ANEW}) SELECT * FROM air.daily AS kept"
            f" FULL JOIN anew USING (sensor_id, quantity, day) WHERE ({_SAME}"
            " AND kept.hours = anew.hours AND kept.complete_hours = (SELECT count(*)"
            " FROM air.hourly WHERE hourly.sensor_id = kept.sensor_id"
            " AND hourly.quantity = kept.quantity"
            " AND (hour AT TIME ZONE 'UTC')::date = kept.day AND hourly.n >= 18)) IS NOT TRUE"
        )
        return hours + days

    def _files_differ(self) -> list[tuple[Any, ...]]:
        """Compare the per-file statistics with a recompute in SQL."""
        by_file = _HOURLY_ANEW.replace("date_trunc('hour', ts)", "file_id").replace(
            "AS hour", "AS file_id"
        )
        return self.sql(
            f"WITH anew AS ({by_file}) SELECT * FROM air.file_aggregate AS kept"
            f" FULL JOIN anew USING (sensor_id, quantity, file_id) WHERE ({_SAME}) IS NOT TRUE"
        )

    def summary_differs(self) -> dict[Any, Any]:
        """Count the rejected rows anew; return the groups that differ, as they are and as due."""
        kept = {
            (file_id, number): (sensor, tuple(rules), Counter(counts))
            for file_id, number, sensor, rules, counts in self.sql(
                "SELECT file_id, group_no, sensor, rules, jsonb_build_object("
                "'open', open, 'repaired', repaired, 'discarded', discarded)"
                " FROM air.quarantine_summary"
            )
        }
        due: dict[Any, Any] = {}
        for file_id, number, line, reasons, state, header in self.sql(
            "SELECT file_id, group_no, line, reasons, quarantined_row.state, coalesce("
            " (SELECT section.header FROM air.source_section AS section"
            " WHERE section.file_id = source_file.file_id AND first_line <= line_no"
            " ORDER BY first_line DESC LIMIT 1), header)"
            " FROM air.quarantined_row JOIN air.source_file USING (file_id)"
        ):
            sensor = sensor_in(header, line)
            written = kept.get((file_id, number), (None,))[0]
            # A version that did not keep the header: nobody knows. Or one of very many.
            if (header is None and (file_id, number) in kept) or written == OTHERS:
                sensor = written
            key = sensor, tuple(reason["rule"] for reason in reasons)
            group = due.setdefault((file_id, number), (*key, Counter()))
            assert group[:2] == key, f"file {file_id} has unlike rows in group {number}"
            group[2][state] += 1
        numbers = kept.keys() | due.keys()
        return {n: (kept.get(n), due.get(n)) for n in numbers if kept.get(n) != due.get(n)}

    def places_differ(self) -> list[tuple[Any, ...]]:
        """Compare who stood where with a recompute in SQL."""
        kept = "SELECT sensor_id, location_key, first_ts, last_ts FROM air.sensor_place"
        return self.sql(
            f"(({kept}) EXCEPT ({_PLACES_ANEW})) UNION ALL (({_PLACES_ANEW}) EXCEPT ({kept}))"
        )


def sensor_in(header: str | None, line: str) -> str | None:
    """Return what stands in the sensor's column of a line, as far as it is counted by."""
    if header is None:
        return None
    delimiter = max(";,\t|", key=header.count)
    names = [name.strip().casefold() for name in _fields(header, delimiter)]
    if "sensor_id" not in names:
        return None
    cells = _fields(line, delimiter)
    at = names.index("sensor_id")
    return (cells[at].strip(" \t")[:20] or None) if at < len(cells) else None


def _fields(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return line.split(delimiter)


@dataclass(frozen=True)
class Bad:
    """A rejected row as the database has it."""

    line: str
    line_bytes: bytes | None
    reasons: list[dict[str, Any]]

    @property
    def exact(self) -> bytes:
        """The line as it stood in the file."""
        return self.line.encode() if self.line_bytes is None else self.line_bytes

    @property
    def rules(self) -> Counter[str]:
        return Counter(reason["rule"] for reason in self.reasons)


@pytest.fixture(scope="session")
def shared_engine(server: Server, template: NoopExecutor) -> Iterator[sa.Engine]:
    """An engine for the one database of these tests, which `make_site` empties for each."""
    with server.database(template.template_dbname) as url:
        engine = store_engine.create(url)
        yield engine
        engine.dispose()


MakeSite = Callable[..., Site]


def emptied(engine: sa.Engine) -> sa.Engine:
    """Take every row out of the database; months that were made stay."""
    with engine.begin() as connection:
        for name in ("change", *reversed(_TABLES)):
            connection.execute(sa.text(f"DELETE FROM air.{name}"))
    return engine


@functools.cache
def _usual() -> Settings:
    """The settings of a home without any; reading none takes as long as loading a small file."""
    return load_settings(Path("/nowhere"))


@pytest.fixture
def make_site(tmp_path: Path, shared_engine: sa.Engine) -> Iterator[MakeSite]:
    """Make a site with settings of one's own; its books are checked at the end."""
    made: list[Site] = []

    def make(**flags: object) -> Site:
        if made:
            made[-1].check_books()
        emptied(shared_engine)
        home = tmp_path / f"site {len(made)}"
        settings = (
            load_settings(home, **flags) if flags else _usual().model_copy(update={"home": home})
        )
        made.append(Site(settings, shared_engine))
        return made[-1]

    yield make
    if made:
        made[-1].check_books()


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    """A site with the default settings."""
    return make_site()


def sds(*rows: str) -> str:
    """Return an archive file of an SDS011."""
    return ARCHIVE_SDS + "".join(f"{row}\n" for row in rows)


def pm(second: int = 0, p1: object = 9.53, p2: object = 2.83, sensor: object = 92) -> str:
    """Return a good row for `sds`, told apart by its time."""
    return f"{sensor};SDS011;42;42.689;23.341;{clock(second)};{p1};;;{p2};;"


def clock(second: int) -> str:
    """Return a second of the first of July 2017."""
    return f"2017-07-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}"
