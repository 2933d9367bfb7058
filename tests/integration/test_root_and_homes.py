"""Root works in homes of its own: one that another user can change is refused, untouched."""

from __future__ import annotations

import io
import os
import pwd
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import typer

from pipeline import cli, foreign, logs
from pipeline.cli import commands
from pipeline.cli.session import make_folders
from pipeline.config import load_settings
from pipeline.embedded.way import resolved
from pipeline.errors import ConfigurationError
from tests.integration.private_server import give

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# How each command is called that works on a home.
COMMANDS = {
    "run": "run --once",
    "ingest": "ingest {source}",
    "status": "status",
    "why": "why 92 2017-07-01T00:02:09",
    "report": "report --day 2017-07-01",
    "retract": "retract 1 --yes",
    "quarantine list": "quarantine list",
    "quarantine show": "quarantine show 1",
    "quarantine export": "quarantine export --all -o {output}",
    "quarantine reprocess": "quarantine reprocess --all",
    "quarantine discard": "quarantine discard 1 --note no",
    "db upgrade": "db upgrade",
    "db url": "db url",
    "db psql": "db psql -c 'SELECT 1'",
    "changes": "changes",
    "doctor": "doctor --mend",
    "demo": "demo {home}",
}
NO_HOME = {"simulate"}


@pytest.fixture(scope="module")
def user() -> pwd.struct_passwd:
    for name in ("games", "news", "mail", "daemon", "bin"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("this system has no ordinary account to lend")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of root's in a folder that everybody may write to."""
    with tempfile.TemporaryDirectory(prefix="sofia-air-test-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        before = Path.cwd()
        yield Path(folder)
        os.chdir(before)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SOFIA_AIR_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("DATABASE_URL", raising=False)


def call(*arguments: str) -> tuple[int | str | None, str, str]:
    """Run a command in this process; return its exit code, and what it printed where."""
    before, umask = (sys.argv, sys.stdout, sys.stderr), os.umask(0o022)
    code: int | str | None = 0
    out, err = io.StringIO(), io.StringIO()
    sys.argv, sys.stdout, sys.stderr = ["sofia-air", *arguments], out, err
    cli.app.registered_commands.clear()  # `main` registers them: it is called once elsewhere
    cli.app.registered_groups.clear()
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv, sys.stdout, sys.stderr = before
        os.umask(umask)
    return code, out.getvalue(), err.getvalue()


def tree(*folders: Path) -> dict[str, tuple[object, ...]]:
    """Return all that is in folders, links not followed, with owners, times and content."""
    found: dict[str, tuple[object, ...]] = {}
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            seen = path.lstat()
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path)] = (
                *(seen.st_ino, seen.st_mode, seen.st_uid, seen.st_gid, seen.st_nlink),
                *(seen.st_size, seen.st_mtime_ns, content),
            )
    return found


def test_every_command_is_here() -> None:
    app = typer.Typer()
    commands.register(app)
    names: set[str] = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        names |= {f"{name} {each}" for each in inner} if inner else {name}
    assert names == {*COMMANDS, *NO_HOME}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_a_home_of_another_user(
    name: str, place: Path, user: pwd.struct_passwd
) -> None:
    home, roots, source = place / "theirs" / "home", place / "roots", place / "source"
    for folder in (home / "quarantine", roots, source):
        folder.mkdir(parents=True)
    (roots / "kept").write_text("root's alone")
    (source / "a.csv").write_text("a,b\n1,2\n")
    # All that would steer root: links for folders and files, and settings that would be refused.
    (home / "logs").symlink_to(roots)
    (home / "data").symlink_to(roots)
    (home / ".sofia-air.lock").symlink_to(roots / "kept")
    (home / ".sofia-air-demo").touch()
    (home / ".env").write_text("SOFIA_AIR_DATABASE_URL=postgresql://their.example/air\nnonsense")
    (home / "sofia-air.toml").write_text("not toml")
    give(place / "theirs", user)
    before = tree(place)
    written = COMMANDS[name].format(home=home, source=source, output=place / "out.csv")
    code, out, err = call("--home", str(home), *shlex.split(written))
    assert (code, out) == (2, "")
    assert f"is reached through {place / 'theirs'}, which belongs to {user.pw_name}" in err
    assert f"sudo -u {user.pw_name} sofia-air" in err
    assert ("name a folder" if name == "demo" else "--home") in err
    assert tree(place) == before


def test_the_current_folder_and_the_variable_name_a_home_too(
    place: Path, user: pwd.struct_passwd, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(place, user)
    monkeypatch.chdir(place)
    code, _, err = call("run", "--once")
    assert code == 2
    assert f"{place} belongs to {user.pw_name}" in err
    monkeypatch.chdir("/")
    monkeypatch.setenv("SOFIA_AIR_HOME", str(place))
    code, _, err = call("run", "--once")
    assert code == 2
    assert f"{place} belongs to {user.pw_name}" in err
    assert list(place.iterdir()) == []


def test_what_needs_no_home_works_there(
    place: Path, user: pwd.struct_passwd, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(place, user)
    monkeypatch.chdir(place)
    for arguments in (["--version"], ["--help"], ["run", "--help"]):
        assert call(*arguments)[0] == 0
    assert list(place.iterdir()) == []


def refused(home: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(home)
    return str(caught.value)


def test_the_way_to_a_home_counts(place: Path, user: pwd.struct_passwd) -> None:
    """Who owns a folder above the home, or a link that leads to it, can swap it."""
    theirs, roots = place / "theirs", place / "roots"
    (theirs / "roots").mkdir(parents=True)
    roots.mkdir()
    os.chown(theirs, user.pw_uid, user.pw_gid)
    belongs = f"{theirs}, which belongs to {user.pw_name}"
    assert belongs in refused(theirs / "roots")  # root's own, in a folder of theirs
    assert belongs in refused(theirs / "new" / "home")
    assert belongs in refused(theirs / ".." / "roots")
    link = place / "link"
    link.symlink_to(roots)
    load_settings(link)
    os.chown(link, user.pw_uid, -1, follow_symlinks=False)
    assert f"{link}, which belongs to {user.pw_name}" in refused(link / "home")
    # A link of root's that leads there, by a detour.
    (roots / "inner").symlink_to("../theirs")
    detour = place / "detour"
    detour.symlink_to("roots/inner")
    assert belongs in refused(detour / "home")


@pytest.mark.parametrize("target", ["/", ".", "..", "roots", "roots/../roots/inner", "missing"])
def test_where_links_lead(target: str, place: Path) -> None:
    (place / "roots" / "inner").mkdir(parents=True)
    link = place / "link"
    link.symlink_to(target)
    for path in (link, link / "x", link / ".", link / "..", link / "x" / ".."):
        assert resolved(path) == path.resolve()


def test_a_home_of_roots_works(place: Path) -> None:
    home, link = place / "home", place / "link"
    home.mkdir()
    link.symlink_to("home")
    settings = load_settings(link)
    make_folders(settings)
    assert {path.name for path in home.iterdir()} == {"data", "quarantine", "logs"}
    (home / ".env").write_text("SOFIA_AIR_SCAN_SECONDS=7")
    assert load_settings(link).watch.scan_seconds == 7
    (place / "round").symlink_to("round")
    load_settings(place / "round")  # nothing is there that could be used
    shutil.rmtree(home)


def test_an_owner_without_a_name_is_as_root(place: Path) -> None:
    """A folder of the host's, mounted into a container."""
    nameless = next(uid for uid in range(54321, 60000) if _nameless(uid))
    home = place / "home"
    home.mkdir()
    (home / ".env").write_text("SOFIA_AIR_SCAN_SECONDS=7")
    for path in (place, home, home / ".env"):
        os.chown(path, nameless, nameless)
    settings = load_settings(home)
    assert settings.watch.scan_seconds == 7
    make_folders(settings)


def _nameless(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return True
    return False


def test_a_folder_shared_by_all_is_no_home(place: Path) -> None:
    """Everybody may put settings and links into it."""
    place.chmod(0o1777)
    (place / "here").symlink_to(".")
    for path in (place, place / "here"):
        assert f"everybody can write to {place}" in refused(path)
    load_settings(place / "home")


def test_a_home_that_somebody_else_makes_meanwhile(
    place: Path, user: pwd.struct_passwd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a shared folder a home that does not exist yet can be made by anybody."""
    place.chmod(0o1777)
    home = place / "home"

    def make_theirs() -> None:
        home.mkdir()
        (home / ".env").write_text("SOFIA_AIR_SCAN_SECONDS=7")
        give(home, user)

    real = foreign.refuse_others_home

    def then_make(*given: object) -> None:
        real(*given)  # type: ignore[arg-type]
        if not home.exists():
            make_theirs()

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.config.refuse_others_home", then_make)
        assert f"{home} belongs to {user.pw_name}" in refused(home)
    shutil.rmtree(home)
    settings = load_settings(home)
    make_theirs()
    before = tree(place)
    with pytest.raises(ConfigurationError, match=f"{home} belongs to {user.pw_name}"):
        make_folders(settings)
    assert tree(place) == before


def test_a_log_is_looked_at_through_one_descriptor(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its last line is whole is asked of the open file, not of what has its name then."""
    file, kept = place / logs.LOG_NAME, place / "kept"
    file.write_text("cut short")
    real = foreign.require_own_file

    def then_swap(descriptor: int, path: Path) -> None:
        real(descriptor, path)
        path.rename(kept)
        path.write_text("whole\n")

    monkeypatch.setattr(logs, "require_own_file", then_swap)
    logs.configure("info", place, console=False)
    logs.get("test").info("told")
    logs.configure("info", None, console=False)
    first, second = kept.read_text().splitlines()
    assert first == "cut short"
    assert '"event": "told"' in second
    assert file.read_text() == "whole\n"
