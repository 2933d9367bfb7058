"""The terminal: nothing that comes from outside is obeyed by it, whatever command shows it."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
import threading
import tty
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from unicodedata import category

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline import cli, logs
from pipeline.cli.terminal import Console, escape
from pipeline.visible import visible, visible_json

HEADER = "sensor_id;sensor_type;location;lat;lon;timestamp;P1;durP1;ratioP1;P2;durP2;ratioP2"
CLIPBOARD = "\x1b]52;c;ZWNobw==\x07"
# Escapes, C0 and C1 controls, DEL, bidi, zero width, separators, tags, rich's markup and emoji.
NASTY = [
    *(CLIPBOARD, "\x1b[8m", "\x1b[2J", "\x9b31m", "\x9d52;c;x\x9c", "\x85", "\x7f", "\x07", "\x08"),
    *("\u202e", "\u2066", "\u2069", "\u200e", "\u200f", "\u061c", "\u200b", "\u200d", "\ufeff"),
    *("\u2028", "\u2029", "\xad", "\ue000", "\U000e0041", "\u2064", "\u3164", "\r", "\t", "\n"),
    *("[red]", "[/]", "[link=http://evil]", "[bold", "\\[", "\\", ":bomb:", "x]", "\x1b[31m[red]"),
]
OWN = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[ABK]|2K)")


def dangers(text: str) -> set[str]:
    """Return what a terminal would obey, or not show, the program's own styles aside."""
    left = OWN.sub("", text).replace("\n", "").replace("\r", "")
    return {c for c in left if category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}}


class Terminal:
    """A pseudo-terminal, and everything that was written to it."""

    def __init__(self) -> None:
        self._main, self.file = pty.openpty()
        tty.setraw(self.file)
        self._parts: list[bytes] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with suppress(OSError):  # the other end was closed
            while chunk := os.read(self._main, 65536):
                self._parts.append(chunk)

    def close(self) -> str:
        os.close(self.file)
        self._thread.join(120)
        assert not self._thread.is_alive(), "somebody still holds the terminal"
        os.close(self._main)
        return b"".join(self._parts).decode()


def shown(*arguments: str) -> str:
    """Run a command on a terminal; return what it shows."""
    terminal = Terminal()
    before = sys.stdout, sys.stderr, sys.argv
    out, err = (os.fdopen(os.dup(terminal.file), "w", encoding="utf-8") for _ in range(2))
    try:
        sys.stdout, sys.stderr, sys.argv = out, err, ["sofia-air", *arguments]
        cli.app.registered_commands.clear()  # `main` registers them: it is called once elsewhere
        cli.app.registered_groups.clear()
        with suppress(SystemExit):
            cli.main()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        opened = out, err, sys.stdout, sys.stderr
        sys.stdout, sys.stderr, sys.argv = before
        for each in opened[::-1]:
            with suppress(ValueError):  # two are on the same buffer
                each.close()
        said = terminal.close()
    assert "Traceback" not in said, said
    return said


@pytest.fixture
def home(tmp_path: Path, migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SOFIA_AIR_DATABASE_URL", migrated_url)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    (tmp_path / "data").mkdir()
    yield tmp_path
    logs.configure("info", None, console=False)


EVERY = (
    ["status"],
    ["status", "--json"],
    ["quarantine", "list"],
    ["quarantine", "list", "--by", "reason"],
    ["quarantine", "list", "--by", "sensor"],
    ["quarantine", "list", "--json"],
    ["quarantine", "show", "NUMBER"],
    ["quarantine", "show", "NUMBER", "--json"],
    ["quarantine", "show", "TEXT"],
    ["quarantine", "reprocess", "NUMBER", "--dry-run"],
    ["quarantine", "discard", "NUMBER", "--note", "TEXT"],
    ["quarantine", "show", "NUMBER"],
    ["quarantine", "export", "--all", "-o", "PATH"],
    ["why", "92", "2017-07-01T00:01:00"],
    ["why", "92", "2017-07-01T00:00:00"],
    ["why", "92", "TEXT"],
    ["retract", "NUMBER", "--yes", "--note", "TEXT"],
    ["doctor"],
    ["ingest", "PATH"],
    ["report", "--day", "TEXT"],
    ["--TEXT"],
    ["TEXT"],
    ["simulate", "PATH", "--model", "TEXT"],
)
FEW = EVERY[0], EVERY[20]
numbers = count(100)


def check(home: Path, name: bytes, cells: list[str], commands: Sequence[list[str]]) -> str:
    """Load a hostile file, look at what the commands show of it; return the file's number."""
    folder = os.fsencode(home / "data") + b"/"
    sensor = next(numbers)  # no file is like another
    rows = [
        f"{sensor};SDS011;42;42.689;23.341;2017-07-01T00:00:00;{cell};;;2;;"
        for cell in ["5", *cells]
    ]
    Path(os.fsdecode(folder + name + b".csv")).write_text(
        "\n".join([HEADER, *rows, ""]), encoding="utf-8", newline="\n"
    )
    Path(os.fsdecode(folder + name + b".refused.csv")).write_text(
        f"who;{sensor}{''.join(cells)}\n1;2\n", encoding="utf-8"
    )
    Path(os.fsdecode(folder + name + b".txt")).touch()
    text = "".join(cells).replace("\0", "")
    found = {"once": shown("--home", str(home), "run", "--once")}
    assert "1 loaded" in found["once"]
    with psycopg.connect(os.environ["SOFIA_AIR_DATABASE_URL"]) as connection:
        ((number,),) = connection.execute(
            "SELECT max(file_id)::text FROM air.source_file WHERE state = 'loaded'"
        )
    values = {"NUMBER": number, "PATH": str(home / text.replace("/", "_")[:40])}
    for command in commands:
        given_ = [values.get(word, word.replace("TEXT", text)) for word in command]
        found[" ".join(command)] = shown("--home", str(home), *given_)
    for command_, said in found.items():
        assert dangers(said) == set(), command_
        assert "\x1b[8m" not in said, command_
    log = (home / "logs" / "sofia-air.jsonl").read_text(encoding="utf-8")
    assert dangers(log) == set()
    assert {"file.loaded", "file.refused"} <= {json.loads(x)["event"] for x in log.split("\n")[:-1]}
    return str(number)


NAME = "".join(NASTY).replace("/", "_").encode()[:200].decode(errors="ignore").encode() + b"\xff"
CELLS = [f"a{nasty}b" for nasty in NASTY if nasty not in "\r\n"]


def test_a_hostile_file(home: Path) -> None:
    number = check(home, NAME, CELLS, FEW)
    said = shown("--home", str(home), "quarantine", "show", number, "--limit", "99")
    # Whatever is shown is shown whole: nothing of it is taken for rich's markup.
    for cell in CELLS:
        assert f";{visible(cell)};" in OWN.sub("", said)


@pytest.mark.slow  # two dozen commands
def test_a_hostile_file_in_every_command(home: Path) -> None:
    check(home, NAME, CELLS, EVERY)


def one_line(text: str) -> str:
    return re.sub(r"[\r\n\0]", "_", text.encode(errors="replace").decode())


hostile = st.lists(st.sampled_from(NASTY) | st.text(max_size=5), max_size=8).map("".join)
names = st.binary(max_size=60) | hostile.map(lambda text: text.encode(errors="replace")[:180])


@pytest.mark.slow
@given(
    name=names.map(lambda name: re.sub(rb"[/\0]", b"_", name)),
    cells=st.lists(hostile.map(one_line), min_size=1, max_size=5),
)
@settings(
    max_examples=4, phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None
)
def test_any_file_in_every_command(home: Path, name: bytes, cells: list[str]) -> None:
    check(home, b"x" + name, cells, EVERY)


# --- the parts -----------------------------------------------------------------------------------


@given(hostile)
@settings(max_examples=50)
def test_a_value_is_never_markup(text: str) -> None:
    console = Console()
    for shape in ("[bold]{}[/]", "{}", "[red]✗[/] {} ([dim]{}[/])", "{}[bold]{}[/bold]x"):
        plain = re.sub(r"\[[a-z/]*\]", "", shape).replace("{}", visible(text))
        assert console.render_str(shape.replace("{}", escape(text))).plain == plain


@pytest.mark.parametrize("text", ["Сензор 1.csv", "µg/m³ × 3", "💣 ❤️.csv", "a\u00a0b", "é", "漢字"])
def test_what_people_write_stays_readable(text: str) -> None:
    assert visible(text) == visible_json(text) == text


@given(hostile)
def test_json_says_the_same(text: str) -> None:
    shown_ = visible_json(json.dumps([text], ensure_ascii=False))
    assert dangers(shown_) == set()
    assert json.loads(shown_) == [text]


@pytest.mark.parametrize("way", ["terminal", "journal", "file"])
def test_a_value_makes_no_line_in_a_log(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    if way == "journal":
        monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    logs.configure("info", tmp_path, console=way != "file")
    name = "".join(NASTY) + "\n2026-11-26T00:00:00Z [error    ] database.down"
    logs.get("test").warning("file.left", file=name, error=Path(name), more=[name], x=1)
    try:
        raise ValueError(name)
    except ValueError:
        logs.get("test").exception("file.unexpected", file=name)
    logs.configure("info", None, console=False)
    said = capsys.readouterr().err
    if way == "file":
        said = (tmp_path / logs.LOG_NAME).read_text(encoding="utf-8")
        assert json.loads(said.split("\n")[0])["file"] == name
    assert dangers(said) == set()
    began = [line for line in said.splitlines() if line[:1].strip()]
    assert len(began) == 2
