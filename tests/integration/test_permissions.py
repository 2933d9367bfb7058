"""Nobody but their owner can change what the package creates, whatever the umask."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.files.permissions import create, make_folder, restrict_umask

_MAIN = "from pipeline.cli import main; main()"
_HEADER = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;P2\n"
_GOOD = "92;SDS011;42;42.689;23.341;2017-07-01T00:02:09;9.53;2.83\n"


def _everything(folder: Path) -> dict[str, int]:
    """Return the mode of all that is in a folder but the database's own files."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and not stat.S_ISSOCK(mode):
            found[str(path.relative_to(folder.parent))] = stat.S_IMODE(mode)
    return found


def _run(home: Path, umask: int, url: str, *arguments: str) -> None:
    environment = {**os.environ, "SOFIA_AIR_DATABASE_URL": url, "SOFIA_AIR_SETTLE_SECONDS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _MAIN, "--home", str(home), *arguments],
        umask=umask,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode in {0, 3}, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("umask", "forbidden"), [(0o000, 0o027), (0o022, 0o027), (0o077, 0o077)], ids=oct
)
def test_whatever_the_umask(umask: int, forbidden: int, tmp_path: Path, migrated_url: str) -> None:
    home = tmp_path / "of a user" / "home"
    source = tmp_path / "source"
    source.mkdir()
    (source / "good.csv").write_text(f"{_HEADER}{_GOOD}{_GOOD.replace('42.689', 'north')}")
    (source / "foreign.csv").write_text("a,b\n1,2\n")
    _run(home, umask, migrated_url, "ingest", str(source))
    _run(home, umask, migrated_url, "run", "--once")
    _run(home, umask, migrated_url, "report", "--out", str(home / "pages" / "page.html"))
    _run(home, umask, migrated_url, "report")
    _run(home, umask, migrated_url, "quarantine", "export", "--all", "-o", str(home / "bad.csv"))
    _run(home, umask, migrated_url, "quarantine", "reprocess", "--all")
    simulated = tmp_path / "of a user" / "simulated"
    _run(home, umask, migrated_url, "simulate", str(simulated), "--manifest", f"{home}/faults")
    found = _everything(tmp_path / "of a user")
    assert len(found) > 15
    assert {name: oct(mode) for name, mode in found.items() if mode & forbidden} == {}


def test_a_log_that_is_set_aside_too(tmp_path: Path) -> None:
    # A process of its own: the log and the umask are the process's.
    script = (
        "from pathlib import Path; from pipeline import logs;"
        "logs._ROTATE_BYTES = 200; logs.configure('info', Path('logs'), console=False);"
        "[logs.get('x').info('something', number=n) for n in range(20)]"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, umask=0, check=True, timeout=120)
    found = _everything(tmp_path / "logs")
    assert len(found) > 2
    assert {name: oct(mode) for name, mode in found.items() if mode & 0o027} == {}


@pytest.mark.parametrize(("umask", "folders", "files"), [(0, 0o750, 0o640), (0o077, 0o700, 0o600)])
def test_folders_and_files(umask: int, folders: int, files: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        make_folder(tmp_path / "a" / "b" / "c")
        make_folder(tmp_path / "a" / "b" / "c")
        create(tmp_path / "a" / "file").close()
        restrict_umask()
        (tmp_path / "a" / "touched").touch()
    finally:
        os.umask(before)
    found = _everything(tmp_path / "a")
    assert found == {
        "a": folders,
        "a/b": folders,
        "a/b/c": folders,
        "a/file": files,
        "a/touched": files,
    }


def test_a_file_in_the_place_of_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match="a"):
        make_folder(tmp_path / "a" / "b")
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a")
