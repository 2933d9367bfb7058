"""The engine: addresses as psql takes them, no secret ever shown, and errors in our own words."""

from __future__ import annotations

import errno
import os
import socket
import string
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from hypothesis import example, given
from hypothesis import strategies as st
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from pipeline.errors import (
    ConfigurationError,
    DatabaseMissing,
    DatabaseTrouble,
    DatabaseUnavailable,
    FileRefused,
    PipelineError,
    StoreError,
    Transient,
)
from pipeline.store.address import masked
from pipeline.store.engine import create, driver_of
from pipeline.store.refusals import guarded, sqlstate, translate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Server

SECRET = "TopSecret"


@pytest.fixture
def terminator(migrated_url: str) -> Iterator[psycopg.Connection]:
    """A session that can end the others."""
    with psycopg.connect(migrated_url, autocommit=True) as connection:
        yield connection


def run(engine: sa.Engine, *statements: str) -> object:
    """Run statements in one transaction; return the last one's first value."""
    with guarded(), engine.begin() as connection:
        for statement in statements[:-1]:
            connection.execute(sa.text(statement))
        return connection.scalar(sa.text(statements[-1]))


def setting(url: str, name: str) -> str:
    engine = create(url)
    try:
        with engine.connect() as connection:
            return str(connection.scalar(sa.select(sa.func.current_setting(name))))
    finally:
        engine.dispose()


# --- connections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_way_to_write_the_scheme(database_url: str, scheme: str) -> None:
    url = database_url.replace("postgresql", scheme, 1)
    assert setting(url, "application_name") == "sofia-air"


def test_the_address_has_the_last_word(database_url: str) -> None:
    assert setting(f"{database_url}&application_name=other", "application_name") == "other"
    assert setting(f"{database_url}&options=-c%20work_mem%3D7MB", "work_mem") == "7MB"


def test_every_option_reaches_libpq(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def connect(*_: object, context: object, **options: object) -> None:
        seen.update(options)
        raise psycopg.OperationalError("enough")

    monkeypatch.setattr(psycopg, "connect", connect)
    url = (
        "postgresql://me:p%40ss@one:1,two:2/air?sslmode=verify-full&sslrootcert=/etc/ca.pem"
        "&target_session_attrs=read-write&connect_timeout=3"
    )
    with pytest.raises(DatabaseUnavailable), guarded():
        create(url).connect()
    assert seen == {
        "user": "me",
        "password": "p@ss",
        "host": "one,two",
        "port": "1,2",
        "dbname": "air",
        "sslmode": "verify-full",
        "sslrootcert": "/etc/ca.pem",
        "target_session_attrs": "read-write",
        "connect_timeout": "3",
        "fallback_application_name": "sofia-air",
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    }


def test_sessions_are_in_utc_and_see_what_is_committed(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = quote(connection.info.dbname)
        connection.execute(f"ALTER DATABASE {name} SET TimeZone = 'Asia/Kolkata'".encode())
        connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'".encode()
        )
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = 'local'".encode())
    engine = create(database_url)
    try:
        for _ in range(2):  # the second time from the pool
            with engine.connect() as connection:
                shown = connection.execute(
                    sa.text(
                        "SELECT current_setting('TimeZone'),"
                        " current_setting('transaction_isolation'),"
                        " current_setting('synchronous_commit')"
                    )
                ).one()
                connection.rollback()
            assert tuple(shown) == ("UTC", "read committed", "local")
    finally:
        engine.dispose()


def room(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """Return how much a connection's socket holds that is on its way."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        assert end.family == socket.AF_UNIX
        return end.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def test_more_is_on_its_way_than_usual(database_url: str) -> None:
    engine = create(database_url)
    with engine.connect() as ours, psycopg.connect(database_url) as usual:
        assert room(driver_of(ours)) >= 2 * room(usual)
        assert ours.scalar(sa.text("SELECT 1")) == 1  # the socket is as it was otherwise
    engine.dispose()


def test_no_connection_is_made_before_it_is_needed() -> None:
    create("postgresql://localhost:1/nothing")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "air",
        f"mysql://me:{SECRET}@host/air",
        f"postgresql://me:{SECRET}@ss@host/air",
        f"postgresql://me:{SECRET}/x@host/air",
        f"postgresql://me:%{SECRET}@host/air",
        f"postgresql://me:{SECRET}@[::1/air",
        f"postgresql://host/air?password={SECRET}&{SECRET}=x",
        f"postgresql://host/air?x={SECRET}",
        "postgresql://host:port/air",
    ],
)
def test_a_malformed_address_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^\[database\] url: ") as caught:
        create(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"no connection option named sslmod$"):
        create("postgresql://host/air?sslmod=require")


# --- masking --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://me:{SECRET}@host:5432/air", "postgresql://me:***@host:5432/air"),
        (f"postgres://me:{SECRET}%40x@host/air", "postgresql://me:***@host/air"),
        (f"postgresql+psycopg://me:{SECRET}@host", "postgresql://me:***@host"),
        ("postgresql://me@host/air", "postgresql://me@host/air"),
        ("postgresql:///air?host=/run/postgresql", "postgresql:///air?host=/run/postgresql"),
        ("postgresql://%2Frun%2Fpg/air", "postgresql:///air?host=/run/pg"),
        (f"postgresql://me:{SECRET}@[::1]:5/air", "postgresql://me:***@[::1]:5/air"),
        (f"postgresql://me:{SECRET}@a:1,b:2/air", "postgresql://me:***@a:1,b:2/air"),
        (f"postgresql://me:{SECRET}@a,b:2/air", "postgresql://me:***@a,b:2/air"),
        (
            f"postgresql://me:{SECRET}@host/air?sslmode=require&sslpassword={SECRET}",
            "postgresql://me:***@host/air?sslmode=require&sslpassword=***",
        ),
        (f"postgresql://host/air?user=me&password={SECRET}", "postgresql://me:***@host/air"),
        (f"postgresql://me:{SECRET}/x@host/air", "postgresql://***"),
        (f"postgresql://me:{SECRET}@x@host/air", "postgresql://***"),
        (f"mysql://me:{SECRET}@host/air", "postgresql://***"),
        ("", "postgresql://***"),
    ],
)
def test_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


@given(st.text())
@example("postgresql://\0")
@example("postgresql://[")
@example("postgresql://\udc80")
def test_masking_never_raises(text: str) -> None:
    masked(text)
    masked(f"postgresql://{text}")


odd = st.text(alphabet=string.punctuation + "ab1 é", max_size=6)


@given(odd, odd, st.sampled_from(["", "/air", "/air?sslmode=require", ":5432/air", "?x=1"]))
def test_masking_hides_a_password_however_carelessly_written(a: str, b: str, rest: str) -> None:
    # As in an address typed by hand, where nobody thought of percent codes.
    assert SECRET not in masked(f"postgresql://me:{a}{SECRET}{b}@host{rest}")
    assert SECRET not in masked(f"postgresql://host/air?password={a}{SECRET}{b}")
    assert SECRET not in masked(f"postgresql://host?password={a}{SECRET}{b}")


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1))
def test_what_is_masked_is_still_the_same_place(password: str) -> None:
    options = "sslmode=require&target_session_attrs=any"
    url = f"postgresql://me:{quote(password, safe='')}@host:5433/air?{options}"
    before, after = conninfo_to_dict(url), conninfo_to_dict(masked(url))
    assert before.pop("password") == password
    assert after.pop("password") == "***"
    assert before == after
    assert urlsplit(masked(url)).port == 5433


# --- errors: a real server ------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_an_outage() -> None:
    with pytest.raises(DatabaseUnavailable, match="Connection refused") as caught, guarded():
        create("postgresql://127.0.0.1:1/air").connect()
    assert isinstance(caught.value.__cause__, sa.exc.OperationalError)
    assert "\n" not in str(caught.value)


def test_a_socket_that_is_not_there_is_an_outage() -> None:
    with pytest.raises(DatabaseUnavailable), guarded():
        create("postgresql:///air?host=/nowhere").connect()


def test_an_unknown_database_is_a_wrong_setting(server: Server) -> None:
    with pytest.raises(ConfigurationError, match='database "nothing" does not exist'), guarded():
        create(server.url("nothing")).connect()


def test_an_unknown_role_is_a_wrong_setting(server: Server) -> None:
    url = server.url("postgres").replace(server.user, "nobody", 1)
    with pytest.raises(ConfigurationError, match='role "nobody" does not exist'), guarded():
        create(url).connect()


def test_a_missing_privilege_is_the_databases_trouble(engine: sa.Engine) -> None:
    with pytest.raises(DatabaseTrouble, match=r"permission denied for schema air.*grant it"):
        run(
            engine,
            "CREATE ROLE reader",  # undone with the transaction
            "SET LOCAL ROLE reader",
            "SELECT sensor_id FROM air.sensor",
        )


def test_a_rejected_row_says_why(engine: sa.Engine) -> None:
    row = f"INSERT INTO air.sensor (sensor_id, model) VALUES (7, '{SECRET}') RETURNING 1"
    with pytest.raises(DatabaseTrouble) as caught:
        run(engine, row, row)
    said = str(caught.value)
    assert 'violates unique constraint "sensor_pkey"' in said
    assert "(sensor_id)=(7)" in said
    assert "INSERT" not in said
    assert SECRET not in said
    assert caught.value.__cause__ is not None
    assert sqlstate(caught.value.__cause__) == "23505"


def test_a_hint_is_passed_on(engine: sa.Engine) -> None:
    with pytest.raises(DatabaseTrouble, match="hint: No function") as caught:
        run(engine, "SELECT nosuchfunction()")
    assert "SELECT" not in str(caught.value)


def test_the_driver_without_sqlalchemy(migrated_url: str) -> None:
    with (
        psycopg.connect(migrated_url) as connection,
        pytest.raises(DatabaseTrouble, match='"nothing" does not exist'),
        guarded(),
    ):
        connection.execute("SELECT * FROM nothing")


def test_a_session_that_was_ended_is_an_outage_and_the_next_one_works(
    engine: sa.Engine, terminator: psycopg.Connection
) -> None:
    pid = run(engine, "SELECT pg_backend_pid()")  # goes back to the pool
    terminator.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
    with pytest.raises(DatabaseUnavailable, match="terminating connection"):
        run(engine, "SELECT 1")
    assert run(engine, "SELECT 1") == 1


def test_a_session_that_was_ended_while_copying_is_an_outage(
    engine: sa.Engine, terminator: psycopg.Connection
) -> None:
    def load() -> None:
        with guarded(), engine.begin() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            pid = driver.info.backend_pid
            with driver.cursor().copy("COPY air.sensor FROM STDIN") as copy:
                copy.write_row((1, "sds011"))
                terminator.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
                deadline = time.monotonic() + 120
                while time.monotonic() < deadline:
                    copy.write("2\tsds011\n" * 10_000)

    with pytest.raises(DatabaseUnavailable):
        load()
    assert run(engine, "SELECT count(*) FROM air.sensor") == 0


@pytest.mark.parametrize(
    ("before", "statement"),
    [
        ("SET LOCAL lock_timeout = '10ms'", "LOCK TABLE air.sensor IN EXCLUSIVE MODE"),
        ("SET LOCAL statement_timeout = '10ms'", "SELECT pg_sleep(5)"),
        ("SET LOCAL transaction_read_only = on", "DELETE FROM air.sensor"),
    ],
)
def test_what_passes_is_not_for_good(
    engine: sa.Engine, terminator: psycopg.Connection, before: str, statement: str
) -> None:
    with terminator.transaction():
        terminator.execute("LOCK TABLE air.sensor IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(DatabaseUnavailable):
            run(engine, before, statement)


def test_a_pool_without_a_free_connection_is_an_outage(engine: sa.Engine) -> None:
    pool = engine.pool
    assert isinstance(pool, sa.QueuePool)
    pool._timeout = 0.01
    held = [engine.connect() for _ in range(5)]
    try:
        with pytest.raises(DatabaseUnavailable, match="QueuePool limit"), guarded():
            engine.connect()
    finally:
        for connection in held:
            connection.close()


# --- errors: the rest -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", DatabaseUnavailable),  # connection_failure
        ("22001", DatabaseTrouble),  # string_data_right_truncation
        ("22003", DatabaseTrouble),  # numeric_value_out_of_range
        ("22008", DatabaseTrouble),  # datetime_field_overflow
        ("22012", DatabaseTrouble),  # division_by_zero
        ("2201E", DatabaseTrouble),  # invalid_argument_for_logarithm
        ("22P03", DatabaseTrouble),  # invalid_binary_representation
        ("22P05", StoreError),  # untranslatable_character
        ("0A000", DatabaseTrouble),  # feature_not_supported
        ("22021", StoreError),  # character_not_in_repertoire
        ("23502", DatabaseTrouble),  # not_null_violation
        ("23503", DatabaseTrouble),  # foreign_key_violation
        ("23505", DatabaseTrouble),  # unique_violation
        ("23514", DatabaseTrouble),  # check_violation
        ("2BP01", DatabaseTrouble),  # dependent_objects_still_exist
        ("25006", DatabaseUnavailable),  # read_only_sql_transaction
        ("28000", ConfigurationError),  # invalid_authorization_specification
        ("28P01", ConfigurationError),  # invalid_password
        ("3D000", DatabaseMissing),  # invalid_catalog_name
        ("40001", DatabaseUnavailable),  # serialization_failure
        ("40P01", DatabaseUnavailable),  # deadlock_detected
        ("42501", DatabaseTrouble),  # insufficient_privilege
        ("42601", DatabaseTrouble),  # syntax_error
        ("42P01", DatabaseTrouble),  # undefined_table
        ("42703", DatabaseTrouble),  # undefined_column
        ("42883", DatabaseTrouble),  # undefined_function
        ("53100", DatabaseUnavailable),  # disk_full
        ("53200", DatabaseUnavailable),  # out_of_memory
        ("53300", DatabaseUnavailable),  # too_many_connections
        ("54000", StoreError),  # program_limit_exceeded
        ("54001", DatabaseTrouble),  # statement_too_complex
        ("55000", DatabaseTrouble),  # object_not_in_prerequisite_state
        ("55P03", DatabaseUnavailable),  # lock_not_available
        ("57014", DatabaseUnavailable),  # query_canceled
        ("57P01", DatabaseUnavailable),  # admin_shutdown
        ("57P02", DatabaseUnavailable),  # crash_shutdown
        ("57P03", DatabaseUnavailable),  # cannot_connect_now
        ("57P04", DatabaseUnavailable),  # database_dropped
        ("57P05", DatabaseUnavailable),  # idle_session_timeout
        ("58030", DatabaseUnavailable),  # io_error
        ("F0000", DatabaseTrouble),  # config_file_error
        ("HV000", DatabaseTrouble),  # fdw_error
        ("P0001", DatabaseTrouble),  # raise_exception
        ("XX000", DatabaseUnavailable),  # internal_error
        ("XX001", DatabaseUnavailable),  # data_corrupted
    ],
)
def test_what_the_server_says_decides(state: str, kind: type[PipelineError]) -> None:
    error = errors.lookup(state)("what the server said")
    wrapped = sa.exc.DBAPIError("SELECT secret", {}, error)
    for given_error in (error, wrapped):
        told = translate(given_error)
        assert type(told) is kind
        assert isinstance(told, Transient) is (kind in {DatabaseUnavailable, DatabaseTrouble})
        said, dash, remedy = str(told).partition(" – ")
        assert said == "database: what the server said"
        assert bool(dash and remedy) is (kind is DatabaseTrouble)


MANY = "Multiple connection attempts failed. All failures were:\n- host: "
ABSENT = 'FATAL: database "air" does not exist'
WRONG = 'FATAL: password authentication failed for user "me"'


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (WRONG, ConfigurationError),
        ("fe_sendauth: no password supplied", ConfigurationError),
        ('FATAL: no pg_hba.conf entry for host "10.0.0.1", user "me"', ConfigurationError),
        ('FATAL: role "me" is not permitted to log in', ConfigurationError),
        ("FATAL: the database system is starting up", DatabaseUnavailable),
        ("FATAL: sorry, too many clients already", DatabaseUnavailable),
        ("server closed the connection unexpectedly", DatabaseUnavailable),
        ("connection timeout expired", DatabaseUnavailable),
        (f"{MANY}a: {WRONG}\n- host: b: {WRONG}", ConfigurationError),
        (f"{MANY}a: {ABSENT}\n- host: b: {ABSENT}", DatabaseMissing),
        (f"{MANY}a: {ABSENT}\n- host: b: {WRONG}", ConfigurationError),
        (f"{MANY}a: {ABSENT}\n- host: b: Connection refused", DatabaseUnavailable),
        (f"{MANY}a: {WRONG}\n- host: b: Connection refused", DatabaseUnavailable),
    ],
)
def test_words_decide_where_the_server_gives_no_code(words: str, kind: type[PipelineError]) -> None:
    assert type(translate(psycopg.OperationalError(words))) is kind


def test_an_error_of_ours_stays_what_it_is() -> None:
    ours = FileRefused("unknown_header", "no such header")
    assert translate(ours) is ours
    with pytest.raises(FileRefused) as caught, guarded():
        raise ours
    assert caught.value is ours


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), guarded():
        raise ZeroDivisionError


def test_sqlalchemys_own_errors_tell_no_statement(engine: sa.Engine) -> None:
    with pytest.raises(DatabaseTrouble) as caught, guarded(), engine.connect() as connection:
        connection.execute(sa.text(f"SELECT '{SECRET}', :missing"))
    assert "missing" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "sqlalche.me" not in str(caught.value)


def test_no_error_shows_the_password(server: Server) -> None:
    place = server.url("nothing").replace(f"{server.user}@", f"{server.user}:{SECRET}@", 1)
    with pytest.raises(ConfigurationError) as caught, guarded():
        create(place).connect()
    shown = [caught.value, caught.value.__cause__, create(place)]
    assert SECRET not in "".join(f"{thing!r} {thing}" for thing in shown)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_no_descriptor_for_a_connection_is_said_as_what_it_is(number: int) -> None:
    with pytest.raises(DatabaseUnavailable, match="too many open files"), guarded():
        raise OSError(number, os.strerror(number))
    with pytest.raises(PermissionError), guarded():
        raise PermissionError
