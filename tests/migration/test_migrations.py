"""Migrations: up, down, up again; equal to the models; safe to run at any time, by anybody."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

import pipeline
from pipeline.contract import flag_bits
from pipeline.contract.quantities import QUANTITIES
from pipeline.embedded import EmbeddedPostgres
from pipeline.errors import ConfigurationError, DatabaseTrouble, StoreError
from pipeline.store import engine as store_engine
from pipeline.store import migrate
from pipeline.store.read.revision import revision
from pipeline.store.tables import RAW, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Server

ROOT = Path(__file__).parents[2]

# Everything that makes a table what it is, in PostgreSQL's own words.
_QUESTIONS = {
    "schema": """
        SELECT nspname, obj_description(oid, 'pg_namespace')
        FROM pg_namespace WHERE nspname = 'air'
    """,
    "tables": """
        SELECT relname, relkind::text, pg_get_partkeydef(oid), obj_description(oid, 'pg_class')
        FROM pg_class
        WHERE relnamespace = to_regnamespace('air') AND relkind IN ('r', 'p', 'S', 'v', 'm')
    """,
    "columns": """
        SELECT attrelid::regclass::text, attnum, attname, format_type(atttypid, atttypmod),
               attnotnull, attidentity::text, attgenerated::text, pg_get_expr(adbin, adrelid),
               col_description(attrelid, attnum)
        FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid AND relkind IN ('r', 'p', 'v')
        LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
        WHERE relnamespace = to_regnamespace('air') AND attnum > 0 AND NOT attisdropped
    """,
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
        FROM pg_constraint WHERE connamespace = to_regnamespace('air')
    """,
    "indexes": """
        SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid)
        FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
        WHERE relnamespace = to_regnamespace('air')
    """,
    "views": """
        SELECT relname, pg_get_viewdef(oid), obj_description(oid, 'pg_class')
        FROM pg_class WHERE relnamespace = to_regnamespace('air') AND relkind = 'v'
    """,
    "functions": """
        SELECT proname, pg_get_functiondef(oid), proacl::text, obj_description(oid, 'pg_proc')
        FROM pg_proc WHERE pronamespace = to_regnamespace('air')
    """,
}


def describe(engine: sa.Engine) -> dict[str, list[tuple[object, ...]]]:
    """Return kind → everything of that kind in the schema `air`, sorted."""
    with engine.connect() as connection:
        return {
            kind: sorted((tuple(row) for row in connection.execute(sa.text(question))), key=repr)
            for kind, question in _QUESTIONS.items()
        }


def without_alembic(described: dict[str, list[tuple[object, ...]]]) -> object:
    """Return what the models speak of, without what only migrations make."""
    theirs = ("alembic_version", "ensure_month", "current_generation()")
    return {
        kind: [row for row in rows if not any(name in str(row) for name in theirs)]
        for kind, rows in described.items()
        if kind != "schema"
    }


@pytest.fixture
def empty(database_url: str) -> Iterator[sa.Engine]:
    """An engine for a fresh, empty database."""
    engine = store_engine.create(database_url)
    yield engine
    engine.dispose()


def config_for(connection: sa.Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrate.migrations_dir()))
    config.attributes["connection"] = connection
    return config


def downgrade(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        command.downgrade(config_for(connection), "base")


def differences(engine: sa.Engine) -> list[object]:
    """Compare models and database as `alembic check` does, through the same env.py."""
    found: list[object] = []
    with engine.begin() as connection:
        config = config_for(connection)
        script = ScriptDirectory.from_config(config)

        def compare(_revision: object, context: object) -> list[object]:
            found.extend(compare_metadata(context, metadata))  # type: ignore[arg-type]
            return []

        with EnvironmentContext(config, script, fn=compare):
            script.run_env()
    return found


def alembic(*words: str, url: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the alembic command as a developer would, at the root of the checkout."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "alembic", "-c", str(ROOT / "alembic.ini"), *words],
        cwd=cwd,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )


def left_over(engine: sa.Engine) -> list[object]:
    """Return whatever is in the database that a fresh one does not have."""
    question = """
        SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema$)'
            AND nspname <> 'public'
        UNION ALL
        SELECT kind || ' ' || nspname || '.' || name FROM (
            SELECT 'relation', relnamespace, relname FROM pg_class
            UNION ALL SELECT 'function', pronamespace, proname FROM pg_proc
            UNION ALL SELECT 'type', typnamespace, typname FROM pg_type
        ) AS things (kind, namespace, name)
        JOIN pg_namespace ON pg_namespace.oid = namespace
        WHERE nspname !~ '^(pg_|information_schema$)'
    """
    with engine.connect() as connection:
        return list(connection.scalars(sa.text(question)))


def revision_of(engine: sa.Engine) -> str | None:
    with store_engine.reader_of(engine).snapshot() as connection:
        return revision(connection)


# --- up and down ---------------------------------------------------------------------------------


def test_up_down_up(empty: sa.Engine) -> None:
    assert revision_of(empty) is None

    assert migrate.upgrade(empty) == list(migrate.revisions())
    assert revision_of(empty) == migrate.head()
    first = describe(empty)

    with empty.begin() as connection:
        connection.execute(sa.text("SELECT air.ensure_month('air.raw_climate', '2019-03-01')"))
    downgrade(empty)
    assert left_over(empty) == []
    assert revision_of(empty) is None

    assert migrate.upgrade(empty) == list(migrate.revisions())
    assert describe(empty) == first


def test_going_down_keeps_what_is_somebody_elses(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE VIEW air.mine AS SELECT 1 AS one"))
    with pytest.raises(sa.exc.DBAPIError, match="depend"):
        downgrade(engine)
    assert revision_of(engine) == migrate.head()


def test_a_role_that_owns_no_more_than_a_prepared_schema(
    server: Server, database_url: str, empty: sa.Engine
) -> None:
    with psycopg.connect(database_url, autocommit=True) as administrator:
        administrator.execute("CREATE ROLE pipeline_owner LOGIN")
        administrator.execute("CREATE SCHEMA air AUTHORIZATION pipeline_owner")
        theirs = store_engine.create(database_url.replace(server.user, "pipeline_owner", 1))
        try:
            with theirs.begin() as connection:
                command.current(config_for(connection))  # a question, which changes nothing
            assert left_over(empty) == ["schema air"]
            assert migrate.upgrade(theirs) == list(migrate.revisions())
            with theirs.begin() as connection:
                connection.execute(
                    sa.text("SELECT air.ensure_month('air.raw_climate', '2019-03-01')")
                )
            downgrade(theirs)
            assert left_over(empty) == []
        finally:
            theirs.dispose()
            administrator.execute("DROP OWNED BY pipeline_owner")
            administrator.execute("DROP ROLE pipeline_owner")


def test_a_second_upgrade_does_nothing(engine: sa.Engine) -> None:
    before = describe(engine)
    assert migrate.upgrade(engine) == []
    assert describe(engine) == before


def test_an_upgrade_of_an_up_to_date_database_does_not_import_alembic(migrated_url: str) -> None:
    program = (
        "import sys; from pipeline.store.engine import create; from pipeline.store import migrate\n"
        "engine = create(sys.argv[1]); print(migrate.upgrade(engine), 'alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, migrated_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["[]", "False"]


def test_upgrades_at_once(database_url: str) -> None:
    many = 6
    start = Barrier(many)

    def one() -> list[str]:
        engine = store_engine.create(database_url)
        try:
            start.wait()
            return migrate.upgrade(engine)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(many) as pool:
        results = [future.result() for future in [pool.submit(one) for _ in range(many)]]

    assert sorted(results) == [[]] * (many - 1) + [list(migrate.revisions())]


@pytest.mark.slow
def test_upgrades_at_once_in_processes_of_their_own(database_url: str) -> None:
    program = (
        "import sys; from pipeline.store.engine import create; from pipeline.store import migrate\n"
        "engine = create(sys.argv[1]); input(); print(len(migrate.upgrade(engine)))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, database_url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    answers = []
    for process in processes:  # all wait in input() by now, or will come to it late: both count
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=180)
        assert process.returncode == 0, err
        answers.append(int(out))

    assert sorted(answers) == [0, 0, len(migrate.revisions())]


def test_a_newer_database_is_left_alone(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE air.alembic_version SET version_num = '9999'"))
    before = describe(engine)
    with pytest.raises(StoreError, match=r"newer version of this software .*9999"):
        migrate.upgrade(engine)
    assert describe(engine) == before


def test_a_failing_migration_changes_nothing(
    empty: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "100% ours" / "migrations"  # % is special in alembic's settings
    shutil.copytree(ROOT / "migrations", folder)
    (folder / "versions" / "9998_works.py").write_text(
        f"revision = '9998'\ndown_revision = '{migrate.head()}'\n"
        "from alembic import op\n"
        "def upgrade(): op.execute('CREATE TABLE air.half_way (n integer)')\n"
    )
    (folder / "versions" / "9999_breaks.py").write_text(
        "revision = '9999'\ndown_revision = '9998'\n"
        "from alembic import op\n"
        "def upgrade(): op.execute('SELECT 1 / 0')\n"
    )
    monkeypatch.setattr(migrate, "migrations_dir", lambda: folder)

    with pytest.raises(DatabaseTrouble, match="division by zero"):
        migrate.upgrade(empty)

    assert left_over(empty) == []


# --- models and migrations say the same -----------------------------------------------------------


def test_head_is_what_alembic_calls_head() -> None:
    script = ScriptDirectory.from_config(config_for())
    assert script.get_heads() == [migrate.head()]
    walked = [step.revision for step in script.walk_revisions()]
    assert list(migrate.revisions()) == walked[::-1]


def test_alembic_finds_no_difference(engine: sa.Engine) -> None:
    assert differences(engine) == []


def test_partitions_make_no_difference(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for table in RAW.values():
            connection.execute(
                sa.text("SELECT air.ensure_month(:name, '2019-03-01')"), {"name": table.fullname}
            )
        connection.execute(sa.text("CREATE TABLE public.not_ours (n integer)"))
    assert differences(engine) == []


@pytest.mark.parametrize(
    "change",
    [
        "COMMENT ON TABLE air.sensor IS 'something else'",
        "COMMENT ON COLUMN air.raw_climate.pressure IS 'in Pa'",
        "ALTER TABLE air.raw_climate ADD COLUMN wind real",
        "ALTER TABLE air.raw_climate DROP COLUMN pressure CASCADE",  # the views on it, too
        "ALTER TABLE air.source_file ALTER COLUMN bytes TYPE integer",
        "ALTER TABLE air.raw_climate ALTER COLUMN flags SET DEFAULT 1",
        "ALTER TABLE air.source_file ALTER COLUMN rule SET NOT NULL",
        "DROP INDEX air.source_file_sha256_once",
        "ALTER TABLE air.location DROP CONSTRAINT location_location_id_lat_lon_key",
        "CREATE TABLE air.extra (n integer)",
    ],
)
def test_alembic_finds_a_difference(engine: sa.Engine, change: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(change))
    assert differences(engine) != []


def test_tables_made_from_the_models_are_the_same(engine: sa.Engine, empty: sa.Engine) -> None:
    # alembic does not compare everything: not CHECKs, not how a table is partitioned, not the
    # order of columns, which COPY and `SELECT *` depend on.
    with empty.begin() as connection:
        connection.execute(sa.schema.CreateSchema("air"))
        metadata.create_all(connection)
    assert without_alembic(describe(empty)) == without_alembic(describe(engine))


def test_the_alembic_command(database_url: str, engine: sa.Engine, empty: sa.Engine) -> None:
    behind = alembic("check", url=database_url)
    assert behind.returncode != 0
    assert "not up to date" in behind.stdout + behind.stderr
    assert left_over(empty) == []  # a question leaves nothing behind

    upgraded = alembic("upgrade", "head", url=database_url)
    assert upgraded.returncode == 0, upgraded.stderr
    assert describe(empty) == describe(engine)

    with empty.begin() as connection:
        connection.execute(sa.text("SELECT air.ensure_month('air.raw_climate', '2019-03-01')"))
    checked = alembic("check", url=database_url)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "No new upgrade operations detected" in checked.stdout

    downgraded = alembic("downgrade", "base", url=database_url)
    assert downgraded.returncode == 0, downgraded.stderr
    assert left_over(empty) == []


def test_the_alembic_command_says_in_a_line_what_is_wrong() -> None:
    done = alembic("current", url="postgresql://nobody:s3cret@localhost:1/nothing")
    assert done.returncode != 0
    assert "FAILED: database: connection failed" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_alembic_command_without_a_setting_uses_the_homes_own_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOFIA_AIR_HOME", str(tmp_path))
    assert alembic("upgrade", "head", url="").returncode == 0
    with EmbeddedPostgres(tmp_path) as own:
        engine = store_engine.create(own.url)
        assert revision_of(engine) == migrate.head()
        engine.dispose()


def test_the_written_sql_does_the_same(
    database_url: str, engine: sa.Engine, empty: sa.Engine
) -> None:
    written = io.StringIO()
    config = config_for()
    config.output_buffer = written
    command.upgrade(config, "head", sql=True)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(written.getvalue().encode())
    assert describe(empty) == describe(engine)


# --- where the migrations are ---------------------------------------------------------------------


def test_an_installed_package_brings_its_migrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "pipeline"
    bundled = package / "_bundled" / "migrations"
    for folder in (bundled, package.parent / "migrations"):  # the latter is somebody else's
        folder.mkdir(parents=True)
        (folder / "env.py").touch()
    monkeypatch.setattr(pipeline, "__file__", str(package / "__init__.py"))
    assert migrate.migrations_dir() == bundled


def test_a_damaged_installation_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "__file__", str(tmp_path / "pipeline" / "__init__.py"))
    with pytest.raises(ConfigurationError, match="install it again"):
        migrate.migrations_dir()


def test_migrations_import_nothing_of_the_package() -> None:
    for path in (ROOT / "migrations" / "versions").glob("*.py"):
        assert "pipeline" not in path.read_text(encoding="utf-8"), path


# --- what stands in the database ------------------------------------------------------------------


def test_everything_has_a_comment(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        for table in RAW.values():
            connection.execute(
                sa.text("SELECT air.ensure_month(:name, '2019-03-01')"), {"name": table.fullname}
            )
    described = describe(engine)
    things = [
        row
        for kind in described
        if kind not in {"constraints", "indexes"}
        for row in described[kind]
        if not str(row[0]).endswith("_seq")
    ]
    assert len(things) > 80
    assert [row for row in things if not row[-1]] == []


def test_the_comments_of_the_flags_name_every_mark() -> None:
    for name, table in RAW.items():
        comment = table.c.flags.comment or ""
        for quantity, bit in flag_bits(name).items():
            assert f"{bit} = {quantity} " in comment


def test_the_raw_columns_are_the_contracts() -> None:
    around = ["sensor_id", "ts", "location_key", "file_id"], ["flags"]
    for name, table in RAW.items():
        quantities = [quantity.name for quantity in QUANTITIES if quantity.table == name]
        assert table.c.keys() == around[0] + quantities + around[1]
        for quantity in QUANTITIES:
            if quantity.table == name:
                assert quantity.unit in (table.c[quantity.name].comment or "")


FILE = {
    "name": "2019-03_sds011sof.csv",
    "sha256": "a" * 64,
    "bytes": 10,
    "state": "loaded",
    "rows_read": 10,
    "rows_loaded": 7,
    "rows_duplicate": 2,
    "rows_quarantined": 1,
    "detected_at": "2019-03-01 00:00:00+00",
    "loaded_at": "2019-03-01 00:00:01+00",
    "contract_version": "0",
    "app_version": "0",
}


def add_file(engine: sa.Engine, **changed: object) -> None:
    with engine.begin() as connection:
        connection.execute(metadata.tables["air.source_file"].insert(), {**FILE, **changed})


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"rows_read": 11}, "books_balance"),
        ({"rows_loaded": 8}, "books_balance"),
        ({"rows_duplicate": 1}, "books_balance"),
        ({"rows_quarantined": 0}, "books_balance"),
        ({"rows_loaded": 11, "rows_duplicate": -2}, "counts_not_negative"),
        ({"state": "half"}, "state_known"),
    ],
)
def test_books_that_do_not_balance_are_refused(
    engine: sa.Engine, changed: dict[str, object], rule: str
) -> None:
    add_file(engine, sha256="b" * 64)
    with pytest.raises(sa.exc.IntegrityError, match=rule):
        add_file(engine, **changed)


def test_the_same_bytes_are_loaded_once(engine: sa.Engine) -> None:
    add_file(engine, state="retracted")
    add_file(engine, state="retracted")
    add_file(engine)
    with pytest.raises(sa.exc.IntegrityError, match="source_file_sha256_once"):
        add_file(engine, name="another name.csv")


def test_an_unknown_place_is_one_place(engine: sa.Engine) -> None:
    unknown = sa.text("INSERT INTO air.location (location_id, lat, lon) VALUES (5, NULL, NULL)")
    with engine.begin() as connection:
        connection.execute(unknown)
    with pytest.raises(sa.exc.IntegrityError, match="location_location_id_lat_lon_key"):  # noqa: SIM117
        with engine.begin() as connection:
            connection.execute(unknown)


def test_the_standard_deviation_of_an_hour(engine: sa.Engine) -> None:
    rows = sa.text(
        "INSERT INTO air.hourly (sensor_id, quantity, hour, n, min, max, mean, m2) VALUES"
        " (1, 'pm10', '2019-03-01 00:00+00', 1, 5, 5, 5, 0),"
        " (1, 'pm10', '2019-03-01 01:00+00', 3, 1, 3, 2, 2) RETURNING std"
    )
    with engine.begin() as connection:
        assert list(connection.scalars(rows)) == [None, 1.0]
