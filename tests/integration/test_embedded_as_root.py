"""Root and the private PostgreSQL: an account without rights does the work, whatever it tries."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from pipeline import embedded, logs
from pipeline.embedded import EmbeddedPostgres, bin_dir, running_url
from pipeline.errors import DiskTrouble, EmbeddedDatabaseError
from pipeline.files.owner import owning
from tests.integration.private_server import (
    as_owner,
    ask,
    commands,
    connection_host,
    give,
    home_at,
    modes,
    postmaster,
)

if TYPE_CHECKING:
    from typing import Self

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="needs root on Linux"
)

BECOME = Path(embedded.__file__).with_name("become.py")
# What root has in a container that Docker started without any option.
DOCKER = (
    *("chown", "dac_override", "fowner", "fsetid", "kill", "setgid", "setuid", "setpcap"),
    *("net_bind_service", "net_raw", "sys_chroot", "mknod", "audit_write", "setfcap"),
)
SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")


def status(pid: int | str) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def capabilities(pid: int | str) -> int:
    """All that a process has or could have again, in one number."""
    found = status(pid)
    return sum(int(found[name], 16) for name in SETS)


class Watch:
    """Looks at every process of a user, without a pause, for as long as it is entered."""

    def __init__(self, uid: int) -> None:
        self.seen: set[str] = set()
        self.armed: list[str] = []
        self._uid = str(uid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            for pid in filter(str.isdigit, (path.name for path in Path("/proc").iterdir())):
                with suppress(OSError, KeyError):
                    found = status(pid)
                    if self._uid in found["Uid"].split():
                        self.seen.add(pid)
                        if any(int(found[name], 16) for name in SETS):
                            self.armed.append(f"{found['Name']}: {found}")
            self._over.wait(0.002)


@pytest.fixture(scope="module")
def user() -> pwd.struct_passwd:
    """A user of this machine that the server would never run as by itself."""
    for name in ("games", "news", "mail", "daemon", "bin"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("this system has no ordinary account to lend")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path, open to every user; in memory if there is room."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free >= 1 << 30
    where = memory if roomy else Path("/tmp")
    with tempfile.TemporaryDirectory(prefix="sofia-air-test-", dir=where) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


class Theirs:
    """A folder of a user's, with a home in it; and beside it something that only root may read."""

    def __init__(self, place: Path, user: pwd.struct_passwd) -> None:
        self.user = user
        self.folder = place / "theirs"
        self.home = self.folder / "home"
        self.room = self.home / ".postgres"
        self.roots = place / "roots"
        self.secret = self.roots / "secret"
        self.home.mkdir(parents=True, mode=0o700)
        give(self.folder, user)
        self.roots.mkdir(mode=0o755)
        self.secret.write_text("root's alone")
        self.secret.chmod(0o600)
        self._before = self._state()

    def _state(self) -> object:
        found = self.secret.stat()
        inside = sorted(path.name for path in self.roots.rglob("*"))
        return modes(self.roots), inside, found.st_mode, found.st_uid, found.st_size

    def check(self) -> None:
        """What is root's is as it was."""
        assert self._state() == self._before
        assert self.secret.read_text() == "root's alone"

    def may_not_read(self, url: str) -> None:
        """The server reads nothing that its user may not, in either way that it has."""
        for statement in (
            f"SELECT pg_read_file('{self.secret}')",
            f"CREATE TEMP TABLE t (x text); COPY t FROM PROGRAM 'cat {self.secret}'",
        ):
            with pytest.raises(psycopg.Error), psycopg.connect(url) as connection:
                connection.execute(statement.encode())

    @contextmanager
    def doing(self, tricks: str) -> Iterator[None]:
        """Have the user do something over and over meanwhile."""
        names = {"H": self.home, "R": self.room, "UP": self.folder, "ROOTS": self.roots}
        script = f"while :; do {tricks}; done"
        over, held = os.pipe()
        with subprocess.Popen(
            ["/bin/sh", "-c", script],
            user=self.user.pw_uid,
            group=self.user.pw_gid,
            extra_groups=[],
            env={**{name: str(path) for name, path in names.items()}, "PATH": os.defpath},
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(held,),
        ) as process:
            os.close(held)
            try:
                yield
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                # Until the last program of the script is gone too: it must not undo what follows.
                os.read(over, 1)
                os.close(over)
        data = self.room / "data"
        for link in (self.home, self.room, data):
            if link.is_symlink():
                link.unlink()
        for folder, aside in ((self.home, "home.x"), (self.room, "x"), (data, "y")):
            moved = folder.with_name(aside)
            if moved.exists() and not folder.exists():
                moved.rename(folder)
        for folder in (self.folder, self.home, self.room):
            if folder.exists():
                folder.chmod(0o700)


@pytest.fixture
def theirs(place: Path, user: pwd.struct_passwd) -> Iterator[Theirs]:
    theirs = Theirs(place, user)
    yield theirs
    if running_url(theirs.home):
        with EmbeddedPostgres(theirs.home):
            pass
    theirs.check()


# --- another user's home -------------------------------------------------------------------------


def test_in_somebodys_home_it_runs_as_them_with_nothing_of_roots(
    theirs: Theirs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "of root's environment")
    with Watch(theirs.user.pw_uid) as watch, EmbeddedPostgres(theirs.home) as database:
        server = Path(f"/proc/{postmaster(theirs.home)}")
        found = status(server.name)
        assert set(found["Uid"].split()) == {str(theirs.user.pw_uid)}
        assert set(found["Gid"].split()) == {str(theirs.user.pw_gid)}
        assert set(found["Groups"].split()) <= {str(theirs.user.pw_gid)}
        assert found["NoNewPrivs"] == "1"
        assert int(found["CapBnd"], 16) == 0
        assert b"A_SECRET" not in as_owner(server, "cat", server / "environ")
        assert ask(database.url, "SELECT 1") == 1
        theirs.may_not_read(database.url)
        # The delegate's memory has root's environment.
        assert database._delegate is not None
        delegate = database._delegate._process.pid
        assert str(delegate) in watch.seen
        read = ["cat", f"/proc/{delegate}/environ"]
        who = {"user": theirs.user.pw_uid, "group": theirs.user.pw_gid, "extra_groups": []}
        denied = subprocess.run(read, capture_output=True, **who)  # type: ignore[call-overload]
        assert denied.returncode != 0
    assert watch.seen
    assert watch.armed == []
    assert {path.lstat().st_uid for path in theirs.room.rglob("*")} == {theirs.user.pw_uid}
    assert running_url(theirs.home) is None


TRICKS = {
    "the folder above closed": "chmod 0 $UP; chmod 700 $UP",
    "the home closed": "chmod 0 $H; chmod 700 $H",
    "the room closed": "chmod 0 $R; chmod 700 $R",
    "a link for the room": "mv $R $H/x; ln -s $ROOTS $R; rm $R; mv $H/x $R",
    "a link for the home": "mv $H $UP/home.x; ln -s $ROOTS $H; rm $H; mv $UP/home.x $H",
    "a link for the data": "mv $R/data $R/y; ln -s $ROOTS $R/data; rm $R/data; mv $R/y $R/data",
}


@pytest.mark.parametrize(
    "tricks",
    [
        pytest.param(each, id=name, marks=() if "above" in name else pytest.mark.slow)
        for name, each in TRICKS.items()
    ],
)
def test_no_trick_with_permissions_or_links_gives_them_a_right(theirs: Theirs, tricks: str) -> None:
    if "$R" in tricks:
        with EmbeddedPostgres(theirs.home):
            pass
    with Watch(theirs.user.pw_uid) as watch, theirs.doing(tricks):
        for _ in range(4 if "$R" in tricks else 2):
            # It may well be refused; what counts is what the user has of it.
            with (
                suppress(EmbeddedDatabaseError, psycopg.OperationalError),
                EmbeddedPostgres(theirs.home) as database,
            ):
                theirs.may_not_read(database.url)
    assert watch.seen
    assert watch.armed == []
    theirs.check()
    with EmbeddedPostgres(theirs.home) as database:  # nothing is broken for good
        assert ask(database.url, "SELECT 1") == 1


TRAPS = ("start.lock", "users.lock", "postgres.log", "postgres.log.old", "data/postmaster.pid")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("hard-link", marks=pytest.mark.slow),
        "link",
        pytest.param("fifo", marks=pytest.mark.slow),
    ],
)
def test_what_they_put_in_place_of_its_files_is_not_followed(theirs: Theirs, kind: str) -> None:
    with EmbeddedPostgres(theirs.home):
        pass
    for name in TRAPS:
        path = theirs.room / name
        path.unlink(missing_ok=True)
        if kind == "hard-link":  # as they could where fs.protected_hardlinks is 0
            os.link(theirs.secret, path)
        elif kind == "link":
            path.symlink_to(theirs.secret)
        else:
            os.mkfifo(path)
            os.chown(path, theirs.user.pw_uid, -1)
    (theirs.room / "data.new").symlink_to(theirs.roots)
    os.truncate(theirs.room / "data/postgresql.conf", 0)
    for _ in range(2):
        with pytest.raises(EmbeddedDatabaseError, match=str(theirs.room)):
            EmbeddedPostgres(theirs.home).start()
        assert running_url(theirs.home) is None
    for name in TRAPS:
        (theirs.room / name).unlink(missing_ok=True)
    theirs.check()
    (theirs.room / "data.new").unlink()
    with EmbeddedPostgres(theirs.home) as database:
        assert ask(database.url, "SELECT 1") == 1


def test_a_draft_that_is_a_link_is_not_emptied(theirs: Theirs) -> None:
    theirs.room.mkdir(mode=0o700)
    (theirs.room / "data.new").symlink_to(theirs.roots)
    give(theirs.room, theirs.user)
    with pytest.raises(EmbeddedDatabaseError, match=str(theirs.room)):
        EmbeddedPostgres(theirs.home).start()
    (theirs.room / "data.new").unlink()


def test_root_speaks_to_a_server_of_that_user_only(theirs: Theirs, place: Path) -> None:
    """Else they could have root's rows written into another home's database, or root's taken."""
    other = place / "other"
    with (
        home_at(other),
        EmbeddedPostgres(other) as others,
        EmbeddedPostgres(theirs.home) as database,
    ):
        assert ask(database.url, "SELECT 1") == 1
        theirs.room.rename(theirs.home / "x")
        theirs.room.symlink_to(other / ".postgres")
        with pytest.raises(psycopg.OperationalError, match="requirepeer"):
            psycopg.connect(database.url)
        assert ask(others.url, "SELECT 1") == 1
        theirs.room.unlink()
        (theirs.home / "x").rename(theirs.room)


def test_a_home_that_its_owner_cannot_reach_is_refused(
    place: Path, user: pwd.struct_passwd
) -> None:
    closed = place / "closed"
    home = closed / "folder" / "home"
    home.mkdir(parents=True)
    closed.chmod(0o700)
    os.chown(home, user.pw_uid, user.pw_gid)
    before = modes(home)
    with pytest.raises(EmbeddedDatabaseError) as caught:
        EmbeddedPostgres(home).start()
    assert f"{closed} is closed to it" in str(caught.value)
    assert user.pw_name in str(caught.value)
    assert "SOFIA_AIR_DATABASE_URL" in str(caught.value)
    assert running_url(home) is None
    assert modes(home) == before
    assert list(home.iterdir()) == []


def test_a_link_of_theirs_does_not_make_a_home_of_roots_folder(theirs: Theirs) -> None:
    link = theirs.folder / "link"
    link.symlink_to(theirs.roots)
    os.chown(link, theirs.user.pw_uid, -1, follow_symlinks=False)
    with pytest.raises(EmbeddedDatabaseError, match="is a link of the user"):
        EmbeddedPostgres(link)
    assert running_url(link) is None
    # To their own folder it may lead; and root's own links may lead anywhere.
    link.unlink()
    link.symlink_to(theirs.home)
    os.chown(link, theirs.user.pw_uid, -1, follow_symlinks=False)
    assert connection_host(EmbeddedPostgres(link).url) == str(theirs.room)


@pytest.mark.slow
def test_a_killed_delegate_is_replaced(theirs: Theirs) -> None:
    """Its account can end it; then the next start has another."""
    with EmbeddedPostgres(theirs.home) as database:
        assert database._delegate is not None
        database._delegate._process.kill()
        database._delegate._process.wait()
        assert database.start() == database.url
        assert ask(database.url, "SELECT 1") == 1
    assert running_url(theirs.home) is None


@pytest.mark.parametrize("kind", ["hard-link", "link", "dangling", "fifo"])
@pytest.mark.parametrize("name", [".sofia-air.lock", "logs/sofia-air.jsonl"])
def test_roots_own_writing_in_their_home_is_led_nowhere(
    theirs: Theirs, kind: str, name: str
) -> None:
    path = theirs.home / name
    path.parent.mkdir(exist_ok=True)
    match kind:
        case "hard-link":
            os.link(theirs.secret, path)
        case "link":
            path.symlink_to(theirs.secret)
        case "dangling":
            path.symlink_to(theirs.roots / "made")
        case "fifo":
            os.mkfifo(path)
    for each in (path.parent, path) if kind != "hard-link" else (path.parent,):
        os.chown(each, theirs.user.pw_uid, theirs.user.pw_gid, follow_symlinks=False)
    if "lock" in name:
        with pytest.raises(DiskTrouble, match=str(path)), owning(theirs.home):
            pass
    else:
        logs.configure("info", theirs.home / "logs", console=False)
        logs.get("test").info("told")
        logs.configure("info", None, console=False)
    theirs.check()


# --- a home of root's ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "docker",
    [
        pytest.param(False, id="all-capabilities", marks=pytest.mark.slow),
        pytest.param(True, id="as-in-docker"),
    ],
)
def test_a_home_below_a_closed_folder_needs_no_capability(place: Path, docker: bool) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    before = modes(closed)
    prefix: list[str] = []
    if docker:
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv")
        prefix = ["setpriv", "--bounding-set", "-all," + ",".join(f"+{each}" for each in DOCKER)]
    with home_at(closed / "home") as home, commands(home, 1, *prefix) as [command]:
        assert ask(command.url(), "SELECT 1") == 1
        server = postmaster(home)
        assert Path(f"/proc/{server}").stat().st_uid != 0
        assert capabilities(server) == 0
        assert int(status(server)["CapBnd"], 16) == 0
        with pytest.raises(psycopg.Error), psycopg.connect(_url(home)) as connection:
            connection.execute(f"SELECT pg_read_file('{closed}/home/.postgres/data/PG_VERSION')")
        assert command.leave() == 0
        assert running_url(home) is None
    assert modes(closed) == before


def _url(home: Path) -> str:
    url = running_url(home)
    assert url
    return url


def test_data_that_an_earlier_release_made_goes_on_being_used(place: Path) -> None:
    """It ran PostgreSQL on the data folder's own path, under the same account."""
    account = next(
        pwd.getpwnam(name) for name in ("sofia-air", "postgres", "nobody") if _exists(name)
    )
    home = place / "home"
    data = home / ".postgres" / "data"
    data.parent.mkdir(parents=True, mode=0o700)
    home.chmod(0o755)  # whatever the umask
    os.chown(data.parent, account.pw_uid, account.pw_gid)
    who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}
    initdb = [bin_dir() / "initdb", "-D", data, "-U", "sofia_air", "--no-instructions", "-EUTF8"]
    subprocess.run(initdb, check=True, capture_output=True, **who)  # type: ignore[call-overload]
    made = {
        "template1": "CREATE DATABASE sofia_air;",
        "sofia_air": "CREATE TABLE kept AS SELECT 42 AS answer;",
    }
    for name, statement in made.items():
        single = [bin_dir() / "postgres", "--single", "-D", data, name]
        given = {"input": statement.encode() + b"\n", "capture_output": True}
        subprocess.run(single, check=True, **given, **who)  # type: ignore[call-overload]
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    home.rename(closed / "home")
    before = (closed / "home/.postgres/data").stat()
    home = closed / "home"
    with EmbeddedPostgres(home) as database:
        assert ask(database.url, "SELECT answer FROM kept") == 42
        after = (home / ".postgres/data").stat()
        assert (after.st_ino, after.st_uid) == (before.st_ino, before.st_uid)


def _exists(name: str) -> bool:
    with suppress(KeyError):
        return bool(pwd.getpwnam(name))
    return False


def test_files_of_roots_are_not_given_away(place: Path) -> None:
    room = place / "home" / ".postgres"
    room.mkdir(parents=True)
    (room / "something").write_text("root's")
    with pytest.raises(EmbeddedDatabaseError, match=r"chown -R \S+ " + str(room)):
        EmbeddedPostgres(place / "home").start()
    assert room.stat().st_uid == 0
    assert (room / "something").stat().st_uid == 0


@pytest.mark.slow
def test_a_command_that_was_killed_before_it_handed_the_room_over(place: Path) -> None:
    (place / "home" / ".postgres").mkdir(parents=True, mode=0o700)
    with EmbeddedPostgres(place / "home") as database:
        assert ask(database.url, "SELECT 1") == 1


# --- programs that only root can run -------------------------------------------------------------


@pytest.fixture
def closed_programs(tmp_path: Path) -> Path:
    """The programs, as pip leaves them under umask 077; and in a closed folder besides."""
    wheel, closed = bin_dir().parents[1], tmp_path / "venv"
    closed.mkdir(mode=0o700)
    for part in (wheel / bin_dir().parent.name, wheel.with_name(wheel.name + ".libs")):
        if part.exists():
            copy = closed / part.relative_to(wheel.parent)
            shutil.copytree(part, copy, ignore=shutil.ignore_patterns("include", "*.a"))
    for entry in (closed, *closed.rglob("*")):
        entry.chmod(entry.stat().st_mode & ~0o077)
    return closed / bin_dir().relative_to(wheel.parent)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where copies of the programs go, for this test."""
    with tempfile.TemporaryDirectory(prefix="sofia-air-test-", dir="/var/lib") as folder:
        Path(folder).chmod(0o755)
        monkeypatch.setattr("pipeline.embedded.programs._COPIES", Path(folder) / "copies")
        yield Path(folder) / "copies"


@pytest.mark.parametrize(
    "whose", ["root's home", pytest.param("their home", marks=pytest.mark.slow)]
)
def test_programs_that_only_root_may_run_are_copied_once(
    theirs: Theirs,
    place: Path,
    closed_programs: Path,
    copies: Path,
    monkeypatch: pytest.MonkeyPatch,
    whose: str,
) -> None:
    monkeypatch.setattr(embedded, "bin_dir", lambda: closed_programs)
    home = theirs.home if whose == "their home" else place / "home"
    (copies / ".new" / "bin").mkdir(parents=True)  # left by a command that was killed
    before = modes(closed_programs / "postgres")
    with EmbeddedPostgres(home) as database:
        assert ask(database.url, "SELECT 1") == 1
        server = Path(f"/proc/{postmaster(home)}")
        assert capabilities(server.name) == 0
        program = Path(os.fsdecode(as_owner(server, "readlink", server / "exe").rstrip(b"\n")))
        assert program.is_relative_to(copies)
    (copy,) = (path for path in copies.iterdir() if not path.name.startswith("."))
    for path in (copy, *copy.rglob("*")):
        assert path.stat().st_uid == 0
        assert path.stat().st_mode & 0o022 == 0
    inode = program.stat().st_ino
    with EmbeddedPostgres(home):
        pass
    assert program.stat().st_ino == inode
    assert modes(closed_programs / "postgres") == before
    assert not (copies / ".new").exists()


def test_programs_are_copied_only_where_root_alone_can_change_them(
    place: Path, closed_programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "bin_dir", lambda: closed_programs)
    monkeypatch.setattr("pipeline.embedded.programs._COPIES", place / "copies")  # below /tmp
    with pytest.raises(EmbeddedDatabaseError, match="not a folder that only root can change"):
        EmbeddedPostgres(place / "home").start()
    assert running_url(place / "home") is None


# --- becoming somebody ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--securebits", "+no_setuid_fixup"],
        ["--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"],
        ["--securebits", "+no_setuid_fixup,+no_setuid_fixup_locked"],
    ],
    ids=["plain", "kept", "ambient", "locked"],
)
def test_nothing_of_root_remains(user: pwd.struct_passwd, options: list[str]) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("needs setpriv")
    code = (
        f"import runpy, os; become = runpy.run_path({str(BECOME)!r})['become']\n"
        f"become({user.pw_uid}, {user.pw_gid}); print(open('/proc/self/status').read())\n"
        "for back in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):\n"
        "    try: back()\n"
        "    except PermissionError: continue\n"
        "    print('came back')\n"
    )
    command = ["setpriv", *options, "--", sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    assert set(found["Uid"].split()) == {str(user.pw_uid)}
    assert set(found["Gid"].split()) == {str(user.pw_gid)}
    assert found["Groups"].strip() == ""
    assert [int(found[name], 16) for name in SETS] == [0] * 4
    assert found["NoNewPrivs"] == "1"
    assert "came back" not in done.stdout


def test_becoming_root_is_refused() -> None:
    code = f"import runpy; runpy.run_path({str(BECOME)!r})['become'](0, 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "root is not an account" in done.stderr
