"""Sources: what is set in the environment, in `.env` and in `sofia-air.toml`, and where exactly.

Each source yields single values. They are put together in order of precedence, and each remembers
how it was written and where, so that a message can name it as its writer knows it. Values are never
repeated in a message: they may be secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.config.sections import ENV_PREFIX, ContractSettings, RangeOverride
from pipeline.config.settings import BY_ENV, SECTIONS, shown, table
from pipeline.errors import ConfigurationError

TOML_NAME = "sofia-air.toml"
DOTENV_NAME = ".env"
_CONTRACT = "contract"
_DEEPER = "__"
_IN_ENVIRONMENT = "environment"
# A statement of more lines is not looked for: only its line number is at stake.
_MOST_LINES = 200

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Given:
    """A value that a source gives.

    Attributes:
        key: section and name of what is set; more parts within the contract.
        value: its value.
        written: what it is called where it stands.
        place: tells where that is.
        within: where in what is written so it stands, if that is JSON of several values.
    """

    key: Key
    value: Any = field(repr=False)
    written: str
    place: Callable[[], str]
    within: Key = ()

    def complaint(self, problem: str, below: Iterable[str] = ()) -> str:
        """Return a sentence about it, or about what is below it in its value."""
        within = ".".join((*self.within, *below))
        return f"{self.written}: {within}{': ' if within else ''}{problem} ({self.place()})"


# --- the environment and .env ---------------------------------------------------------------------


def environment(variables: Mapping[str, str | None]) -> list[Given]:
    """Return what the environment sets.

    Raises:
        ConfigurationError: a name is unknown: it is misspelt, and would silently do nothing.
    """
    return list(_variables(variables, lambda _: _IN_ENVIRONMENT))


def dotenv(path: Path) -> tuple[list[Given], str | None]:
    """Return what `.env` sets, and `DATABASE_URL` in it, which many programs share.

    Other programs keep their keys there too: those are none of our business.

    Raises:
        ConfigurationError: a name is unknown, or it names another home.
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    if not path.is_file():
        return [], None
    from dotenv import dotenv_values

    text = path.read_text(encoding="utf-8")
    values = dotenv_values(path, encoding="utf-8")

    def place(name: str) -> str:
        pattern = rf"^[ \t]*(?:export[ \t]+)?'?{re.escape(name)}'?[ \t]*(?:=|$)"
        # Where a name is given twice, the last one holds.
        found = [text.count("\n", 0, m.start()) for m in re.finditer(pattern, text, re.MULTILINE)]
        return f"{path}, line {found[-1] + 1}" if found else str(path)

    given = list(_variables(values, place))
    _refuse_elsewhere(given, path, DOTENV_NAME)
    return given, values.get("DATABASE_URL")


def _variables(
    variables: Mapping[str, str | None], place_of: Callable[[str], str]
) -> Iterator[Given]:
    known = {f"{ENV_PREFIX}{name}".upper() for name in ("home", _CONTRACT, *BY_ENV)}
    for name, value in variables.items():
        if not name.upper().startswith(ENV_PREFIX):
            continue
        place = partial(place_of, name)
        outer, *inner = name[len(ENV_PREFIX) :].lower().split(_DEEPER)
        if (inner and outer != _CONTRACT) or f"{ENV_PREFIX}{outer}".upper() not in known:
            near = get_close_matches(name.upper(), known, n=1)
            message = f"{name.upper()}: no such setting{_hint(near)} ({place()})"
            raise ConfigurationError(message)
        if value is None:
            continue
        if outer == _CONTRACT:
            key = (_CONTRACT, *inner)
            given = Given(key, value, name.upper(), place)
            yield from _flat(given, _decoded(given))
        else:
            yield Given(BY_ENV.get(outer, (outer,)), value, name.upper(), place)


def _decoded(given: Given) -> Any:
    """Return what a variable of the contract means: JSON where it has parts, else its text."""
    text = given.value.strip()
    if len(given.key) > 1 and not text.startswith(("{", "[")) and text != "null":
        return given.value
    try:
        return json.loads(text)
    except ValueError:
        raise ConfigurationError(given.complaint("must be JSON")) from None


# --- sofia-air.toml -------------------------------------------------------------------------------


def toml(path: Path) -> tuple[list[Given], str]:
    """Return what `sofia-air.toml` sets; and, if some of it has an old name, which and the new one.

    Raises:
        ConfigurationError: it is no TOML; a name is unknown, or is given in its old and its new
            form; or it names another home.
        OSError: it cannot be read.
        UnicodeDecodeError: it is no text.
    """
    if not path.is_file():
        return [], ""
    import tomllib

    text = path.read_text(encoding="utf-8")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = f"{path}: is not valid TOML: {error}"
        raise ConfigurationError(message) from None
    given: list[Given] = []
    problems: list[str] = []
    renamed: list[str] = []

    def one(key: Key, value: object, written: Key) -> Given:
        name = table(written) if value == {} else shown(written)
        return Given(key, value, name, partial(_place_in_toml, path, text, written))

    for name, value in document.items():
        at_top = one((name,), value, (name,))
        if name in BY_ENV:
            new = BY_ENV[name]
            renamed.append(f"{name} is now {shown(new)}")
            given.append(one(new, value, (name,)))
        elif name in SECTIONS and not isinstance(value, dict):
            problems.append(at_top.complaint(f"is a section: write [{name}], and its keys below"))
        elif name in SECTIONS:
            for key, inner in value.items():
                below = one((name, key), inner, (name, key))
                if key in SECTIONS[name].model_fields:
                    given += _flat(below, inner, one)
                else:
                    problems.append(below.complaint(f"no such setting{_meant(key, name)}"))
        elif name == "home":
            given.append(at_top)
        else:
            what = table((name,)) if isinstance(value, dict) else name
            hint = _meant_section(name) if isinstance(value, dict) else _meant(name)
            problems.append(f"{what}: no such setting{hint} ({at_top.place()})")
    by_key: dict[Key, Given] = {}
    for each in given:
        first = by_key.setdefault(each.key, each)
        if first is not each:
            old, new_ = sorted((first, each), key=lambda g: g.written.startswith("["))
            problems.append(old.complaint(f"is the old name of {new_.written}; give only that one"))
    if problems:
        raise ConfigurationError("\n".join(problems))
    _refuse_elsewhere(given, path, TOML_NAME)
    return given, f"{path}: old names of settings: {'; '.join(renamed)}" if renamed else ""


def _place_in_toml(path: Path, text: str, written: Key) -> str:
    line = _line_of(text, written)
    return f"{path}, line {line}" if line else str(path)


def _line_of(text: str, written: Key) -> int | None:
    """Return the line on which a key stands: the first with which the text above contains it."""
    import tomllib

    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if written[-1] not in line:
            continue
        for end in range(number, min(number + _MOST_LINES, len(lines)) + 1):
            try:
                inner: Any = tomllib.loads("\n".join(lines[:end]) + "\n")
            except tomllib.TOMLDecodeError:
                continue  # a value of several lines: it ends further below
            for part in written:
                inner = inner.get(part) if isinstance(inner, dict) else None
            if inner is not None:
                return number
            break
    return None


def _meant_section(name: str) -> str:
    near = get_close_matches(name, SECTIONS, n=1)
    return _hint(f"[{one}]" for one in near)


def meant_in_contract(name: str) -> str:
    """Say which setting of the contract an unknown name may stand for."""
    return _hint(
        get_close_matches(name, (*ContractSettings.model_fields, *RangeOverride.model_fields), n=1)
    )


def _meant(name: str, section: str | None = None) -> str:
    """Say which setting an unknown name may stand for, nearest to where it stands first."""
    if section in SECTIONS and (near := get_close_matches(name, SECTIONS[section].model_fields, 1)):
        return _hint([shown((section, near[0]))])
    full = [*BY_ENV, *(name for _, name in BY_ENV.values())]
    paths = [*BY_ENV.values(), *BY_ENV.values()]
    if near := get_close_matches(name, full, n=1):
        return _hint([shown(paths[full.index(near[0])])])
    return "" if section else _meant_section(name)


def _hint(near: Iterable[str]) -> str:
    return "".join(f"; did you mean {name}?" for name in near)


# --- all of them ----------------------------------------------------------------------------------


def _flat(
    given: Given, value: object, one: Callable[[Key, object, Key], Given] | None = None
) -> Iterator[Given]:
    """Yield the single values within a value, so that each source can add its own."""
    if not isinstance(value, dict) or not value:
        yield replace(given, value=value)
        return
    for name, inner in value.items():
        key, within = (*given.key, str(name)), (*given.within, str(name))
        below = one(key, inner, key) if one else replace(given, key=key, within=within)
        yield from _flat(below, inner, one)


def merged(layers: Iterable[Iterable[Given]]) -> tuple[dict[str, Any], dict[Key, Given]]:
    """Return values as nested tables, and where each comes from.

    Args:
        layers: what the sources give; what comes later wins.
    """
    values: dict[str, Any] = {}
    origins: dict[Key, Given] = {}
    for layer in layers:
        for given in layer:
            *tables, name = given.key
            inner = values
            for part in tables:
                if not isinstance(inner.get(part), dict):
                    inner[part] = {}
                inner = inner[part]
            if given.value == {} and isinstance(inner.get(name), dict):
                continue
            inner[name] = given.value
            origins[given.key] = given
    return values, origins


def origin(loc: Iterable[object], origins: Mapping[Key, Given]) -> tuple[Given, Key] | None:
    """Return what gave the value at a place in the settings, and what of the place is below it."""
    key = tuple(str(part) for part in loc)
    for length in range(len(key), 0, -1):
        if found := origins.get(key[:length]):
            return found, key[length:]
    # A table: where the first of what stands in it is.
    within = next((one for own, one in origins.items() if own[: len(key)] == key), None)
    if within is None:
        return None
    in_toml = within.written.startswith("[")
    return replace(within, written=table(key)) if in_toml else within, ()


def _refuse_elsewhere(given: Iterable[Given], path: Path, name: str) -> None:
    """These files were found in the home folder, so they cannot say that it is another."""
    for one in given:
        if one.key == ("home",) and Path(str(one.value)).expanduser().absolute() != path.parent:
            message = (
                f"{one.written} in {name}: cannot move the home folder it is in; set "
                f"{ENV_PREFIX}HOME"
            )
            raise ConfigurationError(message, "home")
