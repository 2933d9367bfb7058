"""Write the parts of the documentation that derive from the code.

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`, and NAME is a
function below. `python docs/generate.py` rewrites them all; with `--check` it changes nothing and
exits with 1 when a part is not what the code says today.

`--queries` does the same for the results in `analysis.md`: it loads `sample_data/` into a
throwaway PostgreSQL and asks it every query on that page.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import EnumType
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import numpy as np
import sqlalchemy as sa
import typer
from prometheus_client.metrics import MetricWrapperBase
from pydantic import BaseModel
from sqlalchemy.dialects import postgresql
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from pipeline import metrics
from pipeline.budget import Bounds, Costs
from pipeline.cli import app, commands
from pipeline.config import (
    ENV_PREFIX,
    SECTIONS,
    LimitSettings,
    LoadSettings,
    about,
)
from pipeline.contract import (
    FILE_RULES,
    PARTIAL,
    PLACE_UNKNOWN,
    ROW_RULES,
    Contract,
    flag_bits,
    indices,
)
from pipeline.contract.explain import conflict
from pipeline.contract.header import recognise, unreadable_header
from pipeline.contract.models import NOT_STORED, NOT_STORED_TYPES
from pipeline.core.parse import parse
from pipeline.core.records import Block, Segment, frame_of
from pipeline.core.rejected import Rejected
from pipeline.core.validate import validate
from pipeline.embedded import EmbeddedPostgres, bin_dir
from pipeline.errors import FileRefused
from pipeline.files.read import Limits, blocks
from pipeline.records import Content
from pipeline.store.sql import statement
from pipeline.store.tables import RAW, metadata

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 80

# Columns of the examples below. Real files carry more; what is not needed is left out.
_ARCHIVE = "sensor_id;sensor_type;location;lat;lon;timestamp;"
_PM_HEADER = f"{_ARCHIVE}P1;P2"
_CLIMATE_HEADER = f"{_ARCHIVE}pressure;temperature;humidity"
# The present, as far as the examples are concerned.
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


# --- Markdown -----------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )


def code(text: object) -> str:
    """Return text as inline code."""
    return f"`{text}`"


def number(value: float) -> str:
    """Return a number as a person writes it."""
    return f"{value:g}".replace("-", "−") if abs(value) < 1e5 else f"{value:,.0f}"


def between(low: float, high: float, unit: str) -> str:
    """Return a range in words."""
    return f"{number(low)} to {number(high)} {unit}"


# --- The contract -------------------------------------------------------------------------------


def quantities() -> str:
    """Return what is measured, in which unit, and what is accepted."""
    rows = []
    for q in Contract.default().quantities.values():
        every = q.typical == q.accept
        file_range = "the same" if q.file_scale == 1 else between(*q.file_range, q.file_unit)
        rows.append(
            [
                code(q.name),
                q.title,
                between(*q.accept, q.unit),
                "" if every else between(*q.typical, q.unit),
                file_range,
                ", ".join(number(code_) for code_ in q.sentinels),
                q.source,
            ]
        )
    head = ("quantity", "what it is", "accepted", "typical", "in files", "codes", "from")
    return table(head, rows)


def models() -> str:
    """Return the sensor models and which columns of a file each one needs."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for model in Contract.default().models.values():
        filled = (
            code(column)
            + (f" → `{name}`" if name != column else "")
            + (" (may be empty or missing)" if column in model.optional else "")
            for column, name in model.columns.items()
        )
        codes = (
            f"`{column}`: {', '.join(map(number, values))}"
            for column, values in model.sentinels.items()
        )
        row = (", ".join(filled), ", ".join(map(code, model.other)), "; ".join(codes))
        alike.setdefault(row, []).append(model.name.upper())
    head = ("sensor types", "need", "may also have (not stored)", "codes of their own")
    return table(head, ([", ".join(names), *row] for row, names in alike.items()))


def not_stored() -> str:
    """Return the columns that give away a file of another kind."""
    kinds: dict[str, list[str]] = {}
    for column, kind in NOT_STORED.items():
        kinds.setdefault(kind, []).append(code(column))
    lines = [f"- {kind}: {', '.join(columns)}" for kind, columns in kinds.items()]
    lines += [f"- sensor type {name.upper()}: {what}" for name, what in NOT_STORED_TYPES.items()]
    return "\n".join(lines)


def _good(**changed: str) -> str:
    """Return a good row, but for the given cells."""
    row = {
        "sensor_id": "92",
        "sensor_type": "SDS011",
        "location": "42",
        "lat": "42.689",
        "lon": "23.341",
        "timestamp": "2017-07-01T00:02:09",
        "P1": "9.53",
        "P2": "2.83",
    }
    return ";".join((row | changed).values())


# Rule → a line under `_PM_HEADER` that breaks it.
_BAD_ROWS: dict[str, str] = {
    "null": _good(P1=""),
    "type": _good(P1="abc"),
    "not_finite": _good(P1="nan"),
    "range": _good(P1="2500"),
    "sentinel": _good(P2="-999"),
    "unit": "1764;BME280;10;42.69;23.34;2017-07-01T00:02:09;950.3;20.1;61.2",
    "decimal_comma": _good(P1="9,53"),
    "timestamp": _good(timestamp="2017-02-30T00:02:09"),
    "spreadsheet_date": _good(timestamp="01.07.2017 00:02"),
    "null_island": _good(lat="0", lon="0"),
    "model": _good(sensor_type="XYZ9"),
    "width": "92;SDS011;42;42.689",
    "quote": _good(sensor_type='SDS"011'),
    "nul_byte": _good(sensor_id="9\0"),
    "encoding": _good(P1="9.53\udcb5"),
    "repeated_header": _PM_HEADER,
    "unknown_section": "sensor_id;sensor_type;location;lat;lon;timestamp;value_type;value",
    "not_stored": _good(sensor_type="PPD42NS"),
    "conflict": _good(P1="11.2"),
}


def row_rules() -> str:
    """Return every rule a row can break, with what the steps say of an example."""
    rows = []
    for rule, meaning in ROW_RULES.items():
        line = _BAD_ROWS[rule]
        shown = (
            line.encode(errors="surrogateescape").decode(errors="replace").replace("\0", "\ufffd")
        )
        rows.append([code(rule), meaning, code(shown), _said_of_row(rule, line)])
    return table(("rule", "what it means", "for example", "what you are told"), rows)


def _said_of_row(rule: str, line: str) -> str:
    if rule == "conflict":
        mine, kept = ({"pm10": value, "pm25": 2.83} for value in (11.2, 9.53))
        return conflict(mine, kept, "line 2").message
    header = recognise(_CLIMATE_HEADER if rule == "unit" else _PM_HEADER, Contract.default())
    if rule == "unknown_section":
        header = unreadable_header(line, Contract.default())
    text = f"{line}\n".encode(errors="surrogateescape")
    rows = parse(Block(header, text, (Segment(0, 2, 1),)))
    (row,) = [*rows.rejected, *validate(rows, Contract.default(), _NOW)[1]]
    (reason,) = row.reasons
    if reason.rule != rule:
        message = f"the example for {rule} breaks {reason.rule}"
        raise AssertionError(message)
    return reason.message


_TEXT = f"{_PM_HEADER}\n{_good()}\n".encode()
# Rule → the bytes of a file that breaks it.
_BAD_FILES: dict[str, bytes] = {
    "empty": b"",
    "binary": b"PK\x03\x04",
    "utf16": _TEXT.decode().encode("utf-16"),
    "unknown_header": b"sensor_id;sensor_type;location;lat;lon;timestamp;P1\n",
    "not_stored": b"sensor_id;sensor_type;location;lat;lon;timestamp;noise_LAeq\n",
    "too_many_headers": (_TEXT + _TEXT.replace(b"P1;P2", b"P2;P1")) * 2_000,
    "corrupt_gzip": gzip.compress(_TEXT, mtime=0)[:-12],
    "too_large": gzip.compress(_TEXT * 10_000, mtime=0),
    "line_too_long": _TEXT + b"9" * (2**20 + 1),
    "mostly_malformed": _TEXT + b"x\n" * 20_000,
    "too_many_rejected": _TEXT + b"x\n" * 6_000,
}
# What the steps alone cannot break: it takes a database.
_TOLD_BY_OTHERS = {"database": "the words of the database"}


def file_rules() -> str:
    """Return every rule a file as a whole can break, with what the steps say of an example."""
    rows = []
    for rule, meaning in FILE_RULES.items():
        said = _TOLD_BY_OTHERS.get(rule) or _said_of_file(rule, _BAD_FILES.get(rule, _TEXT))
        rows.append([code(rule), meaning, said])
    return table(("rule", "what it means", "what you are told, for example"), rows)


def _said_of_file(rule: str, held: bytes) -> str:
    content = Content(Path("example.csv"), len(held), "", held, (0, 0, 0, 0, 0))
    limits = Limits(LoadSettings().block_bytes, LimitSettings().max_line_bytes, 1_000_000)
    costs = Costs(Bounds(max_quarantined_rows=5_000), [content.size], {})
    try:
        for block in blocks(content, 0, Contract.default(), limits):
            rows = parse(block)
            costs.rejected(rows.read, Rejected.of(rows.rejected))
        many = np.arange(Bounds().max_places + 1)
        alike = dict.fromkeys(("file", "sensor_id"), 0 * many)
        degrees = dict.fromkeys(("lat", "lon"), 0.0 * many)
        costs.named(frame_of({**alike, "location_id": many, **degrees}))
    except FileRefused as refusal:
        if refusal.rule == rule:
            return refusal.message
    message = f"the example for {rule} does not break it"
    raise AssertionError(message)


def flags() -> str:
    """Return the bits of the raw tables' `flags`."""
    rows = [[code(PLACE_UNKNOWN), "both", "the file gave no coordinates or no location"]]
    for name in RAW:
        for quantity, bit in flag_bits(name).items():
            words = f"`{quantity}` is accepted but outside its typical range"
            rows.append([code(bit), code(name), words])
    rows.append([code(PARTIAL), "both", "a reading that this sensor model has is empty"])
    return table(("bit", "table", "meaning"), rows)


# --- The settings -------------------------------------------------------------------------------


def settings() -> str:
    """Return every setting, section by section."""
    parts = []
    head = ("key", "in the environment or `.env`", "default", "unit", "meaning")
    for section, model in SECTIONS.items():
        rows = [
            [
                code(each.key),
                code(f"{ENV_PREFIX}{each.env}"),
                each.default,
                each.unit,
                f"{each.meaning[:1].upper()}{each.meaning[1:]}.".replace("<", "&lt;"),
            ]
            for each in _settings(model, env=f"{section.upper()}__")
        ]
        parts.append(f"### `[{section}]`\n\n{model.__doc__}\n\n{table(head, rows)}")
    return "\n\n".join(parts)


_SAMPLE_HEAD = """\
# Settings of the Sofia Air Pipeline. Copy this file into the home folder as sofia-air.toml.
# To set one, take the # away from in front of it. Its value here is its default, unless it says
# "for example". Leave the lines in [brackets] as they are: each begins a section.
# What each one is for: docs/configuration.md.
"""
_SAMPLE_CONTRACT = """\
# Rows that lack some of their sensor's readings: stored without them ("accept") or rejected; and
# the sensor types of which they are stored in any case. For example:
#partial = "reject"
#partial_models = ["bmp280"]

# A site's own ranges, in the stored unit, and sensor types; for example:
#[contract.ranges.temperature]
#accept = [-60, 50]
#typical = [-40, 35]

#[contract.models.rooftop]
#dust10 = "pm10"
#dust25 = "pm25"
"""


def sample_configuration() -> str:
    """Return a `sofia-air.toml` with every section, and every setting commented out."""
    parts = [_SAMPLE_HEAD]
    for section, model in SECTIONS.items():
        parts.append(f"\n[{section}]\n# {model.__doc__}\n")
        if section == "contract":
            continue
        for name, field in model.model_fields.items():
            meaning = textwrap.wrap(f"{field.description}", WIDTH - 2)
            value = field.default
            if value is None:
                shown = f"{about(field)['example']}    # for example"
            else:
                shown = f'"{value}"' if isinstance(value, str) else str(value)
            parts.append("".join(f"# {line}\n" for line in meaning) + f"#{name} = {shown}\n")
    return "\n".join([*parts, _SAMPLE_CONTRACT])


class _Documented(NamedTuple):
    key: str
    env: str
    default: str
    unit: str
    meaning: str


def _settings(model: type[BaseModel], prefix: str = "", env: str = "") -> Iterator[_Documented]:
    for name, field in model.model_fields.items():
        inner = [
            a
            for a in get_args(field.annotation)
            if isinstance(a, type) and issubclass(a, BaseModel)
        ]
        if inner:
            one = f"{prefix}{name}.<quantity>."
            yield from _settings(inner[0], one, f"{env}{name.upper()}__<QUANTITY>__")
            continue
        said = about(field)
        limits = _limits(field.metadata)
        yield _Documented(
            f"{prefix}{name}",
            said.get("env", "").upper() or f"{env}{name.upper()}",
            _default(field.get_default(call_default_factory=True)),
            said.get("unit", ""),
            (field.description or "") + (f" ({limits})" if limits else ""),
        )


def _default(value: object) -> str:
    if value is None or value in ({}, ()):
        return "unset"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 2**20:
        power, unit = next((p, u) for p, u in ((30, "GiB"), (20, "MiB")) if value >= 2**p)
        return f"`{value}` ({value >> power} {unit})"
    return code(f"{value:g}" if isinstance(value, float) else value)


def _limits(metadata_: Sequence[object]) -> str:
    words = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    told = []
    for limit in metadata_:
        for key, word in words.items():
            if (bound := getattr(limit, key, None)) is not None:
                told.append(f"{word} {bound}")
        if pattern := getattr(limit, "pattern", None):
            told.append("one of " + ", ".join(re.findall(r"\w+", pattern)))
    return ", ".join(told)


# --- The metrics --------------------------------------------------------------------------------


def metric_names() -> str:
    """Return what `/metrics` tells."""
    rows = []
    for metric in vars(metrics).values():
        if not isinstance(metric, MetricWrapperBase):
            continue
        (family,) = metric.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = ", ".join(map(code, metric._labelnames))  # it shows them nowhere else
        rows.append([code(name), family.type, labels, family.documentation])
    return table(("name", "type", "labels", "meaning"), rows)


# --- The commands -------------------------------------------------------------------------------


class Parameter(NamedTuple):
    """An option or argument of a command, as the function that carries it out declares it."""

    info: ParameterInfo
    name: str
    kind: Any
    default: object

    @property
    def required(self) -> bool:
        """Whether the command cannot do without it."""
        return self.default is inspect.Parameter.empty

    @property
    def shown(self) -> str:
        """Its name as one types it, and what it takes."""
        if isinstance(self.info, ArgumentInfo):
            name = self.info.metavar or self.name.upper()
            return name if self.required else f"[{name}]"
        given = [name for name in self.info.param_decls or () if name.startswith("-")]
        long = any(name.startswith("--") for name in given)
        names = sorted([*given, *([] if long else [f"--{self.name.replace('_', '-')}"])], key=len)
        return ", ".join(names) + (f" {self._takes()}" if self.kind is not bool else "")

    def _takes(self) -> str:
        if isinstance(self.kind, EnumType):
            return "|".join(str(value) for value in self.kind._value2member_map_)
        kinds = {Path: "PATH", int: "N", float: "NUMBER", datetime: "YYYY-MM-DD"}
        return kinds.get(self.kind, "TEXT")

    @property
    def described(self) -> str:
        """Its help, and its default if it has one."""
        notes = []
        if self.info.envvar:
            notes.append(f"env: {self.info.envvar}")
        if not self.required and self.default not in {None, False, ""}:
            notes.append(f"default: {getattr(self.default, 'value', self.default)}")
        return _plain(self.info.help) + (f" [{'; '.join(notes)}]" if notes else "")


def command_help() -> str:
    """Return the help of every command, 80 columns wide and plain."""
    return "\n\n".join(
        f"{'#' * (2 + path.count(' '))} `{path}`\n\n```text\n{text}\n```"
        for path, text in _commands("sofia-air", app)
    )


def _commands(path: str, of: typer.Typer) -> Iterator[tuple[str, str]]:
    if not of.registered_commands:
        commands.register(of)
    subcommands: list[tuple[str, str, Any]] = []
    for command in of.registered_commands:
        name = command.name or command.callback.__name__.replace("_", "-")  # type: ignore[union-attr]
        subcommands.append((name, inspect.getdoc(command.callback) or "", command.callback))
    for group in of.registered_groups:
        inner = group.typer_instance
        subcommands.append((str(group.name), (inner and inner.info.help) or "", inner))
    callback = of.registered_callback and of.registered_callback.callback
    yield path, _help(path, of.info.help or "", callback, [row[:2] for row in subcommands])
    for name, words, command in subcommands:
        if isinstance(command, typer.Typer):
            yield from _commands(f"{path} {name}", command)
        else:
            yield f"{path} {name}", _help(f"{path} {name}", words, command, [])


def _help(path: str, words: str, function: Any, inner: list[tuple[str, str]]) -> str:
    parameters = list(_parameters(function)) if function else []
    arguments = [p for p in parameters if isinstance(p.info, ArgumentInfo)]
    options = [p for p in parameters if isinstance(p.info, OptionInfo)]
    usage = [path, *(["[OPTIONS]"] if options else []), *(a.shown for a in arguments)]
    usage += ["COMMAND …"] if inner else []
    told = [
        textwrap.indent(textwrap.fill(paragraph, WIDTH - 2), "  ")
        for paragraph in _plain(words).split("\n\n")
    ]
    parts = [f"Usage: {' '.join(usage)}", *told]
    parts += _listed("Arguments", [(p.shown, p.described) for p in arguments])
    parts += _listed("Options", [(p.shown, p.described) for p in options])
    parts += _listed("Commands", [(n, _plain(help_).partition("\n")[0]) for n, help_ in inner])
    return "\n\n".join(parts)


def _parameters(function: Any) -> Iterator[Parameter]:
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if get_origin(parameter.annotation) is not Annotated:
            continue  # typer's own context
        kind, info = get_args(parameter.annotation)
        kinds = [k for k in get_args(kind) if k is not NoneType] or [kind]
        if get_origin(kinds[0]) is list:
            kinds = list(get_args(kinds[0]))
        yield Parameter(info, name, kinds[0], parameter.default)


def _listed(title: str, rows: list[tuple[str, str]]) -> list[str]:
    if not rows:
        return []
    left = max(len(name) for name, _ in rows) + 4
    lines = []
    for name, words in rows:
        head, *rest = textwrap.wrap(words, WIDTH - left, break_on_hyphens=False) or [""]
        lines += [f"  {name}".ljust(left) + head, *(" " * left + more for more in rest)]
    return [f"{title}:\n" + "\n".join(line.rstrip() for line in lines)]


def _plain(help_: str | None) -> str:
    # An escaped bracket, as in `\\[default: now]`, is meant for the reader.
    return re.sub(r"(?<!\\)\[/?(bold|dim)\]", "", help_ or "").replace("\\[", "[").strip()


# --- The schema ---------------------------------------------------------------------------------


def tables() -> str:
    """Return every table with its columns and their comments."""
    return "\n\n".join(_table(t) for t in metadata.sorted_tables)


def _table(of: sa.Table) -> str:
    rows = [
        [
            code(c.name),
            _type(c) + ("" if c.nullable else ", not null") + _default_of(c),
            c.comment or "",
        ]
        for c in of.columns
    ]
    keys = [f"Primary key: {_names(of.primary_key.columns)}."]
    if partition := of.dialect_kwargs.get("postgresql_partition_by"):
        keys.append(f"Partitioned by {code(partition)}, a partition for each month.")
    for constraint in sorted(of.constraints, key=lambda c: str(c.name)):
        if isinstance(constraint, sa.UniqueConstraint):
            keys.append(f"Unique: {_names(constraint.columns)} (an empty value counts as a value).")
        if isinstance(constraint, sa.CheckConstraint):
            keys.append(f"Check: {code(constraint.sqltext)}.")
    for index in sorted(of.indexes, key=lambda i: str(i.name)):
        where = index.dialect_options["postgresql"].get("where")
        kind = "Unique index" if index.unique else "Index"
        using = index.dialect_options["postgresql"].get("using")
        keys.append(
            f"{kind}: {_names(index.columns)}{f' ({using.upper()})' if using else ''}"
            + ("." if where is None else f" where {code(where)}.")
        )
    columns = table(("column", "type", "meaning"), rows)
    listed = "\n".join(f"- {key}" for key in keys)
    return f"### `{of.schema}.{of.name}`\n\n{of.comment}\n\n{columns}\n\n{listed}"


_FUNCTION = re.compile(
    r"^CREATE FUNCTION air\.(\w+)\((.*?)\)\s+RETURNS (.*?)\s+LANGUAGE", re.MULTILINE | re.DOTALL
)
_COMMENT = re.compile(
    r"^COMMENT ON (\w+) air\.([\w.]+).*? IS\s+'((?:[^']|'')*)';", re.MULTILINE | re.DOTALL
)


def _comments() -> Iterator[tuple[str, str, str]]:
    """Yield kind, name and words of every comment on functions and views, in order."""
    for kind, name, words in _COMMENT.findall(statement("analysis")):
        yield kind, name, words.replace("''", "'")


def views() -> str:
    """Return every view with its columns and their comments."""
    columns: dict[str, list[tuple[str, str]]] = {}
    for kind, name, words in _comments():
        if kind == "COLUMN":
            view, _, column = name.partition(".")
            columns.setdefault(view, []).append((code(column), words))
    return "\n\n".join(
        f"### `air.{name}`\n\n{words}\n\n{table(('column', 'meaning'), columns[name])}"
        for kind, name, words in _comments()
        if kind == "VIEW"
    )


def functions() -> str:
    """Return every function that answers a question, with what it takes and gives."""
    given = {name: (took, gave) for name, took, gave in _FUNCTION.findall(statement("analysis"))}
    parts = []
    for kind, name, words in _comments():
        if kind == "FUNCTION":
            took, gave = (" ".join(text.split()).replace("( ", "(") for text in given[name])
            took = took.replace("double precision", "double")
            signature = f"air.{name}({took})\n    → {gave.replace('double precision', 'double')}"
            parts.append(f"### `air.{name}`\n\n```text\n{signature}\n```\n\n{words}")
    return "\n\n".join(parts)


def bands() -> str:
    """Return the bands of the European air quality index."""
    rows = []
    for number_, name in enumerate(indices.BANDS):
        row = [str(number_ + 1), name]
        for bounds in indices.BOUNDS.values():
            above = f"above {number(bounds[number_ - 1])}" if number_ else ""
            to = f"to {number(bounds[number_])}" if number_ < len(bounds) else ""
            row.append(" ".join(part for part in (above, to) if part))
        rows.append(row)
    head = ("band", "name", *(f"{name}, µg/m³" for name in indices.BOUNDS))
    return f"{indices.INDEX_VERSION}. {indices.INDEX_SOURCE}.\n\n" + table(head, rows)


def limits() -> str:
    """Return the guidelines and limits."""
    rows = [
        [
            each.standard,
            code(each.quantity),
            each.period,
            number(each.value),
            str(each.allowed_days) if each.period == "day" else "",
        ]
        for each in indices.LIMITS
    ]
    head = ("standard", "quantity", "mean of a", "at most, µg/m³", "days a year it may be above")
    return table(head, rows)


def _names(columns: Iterable[sa.Column[Any]]) -> str:
    return code(f"({', '.join(c.name for c in columns)})")


def _type(column: sa.Column[Any]) -> str:
    compiled = str(column.type.compile(dialect=postgresql.dialect())).lower()  # type: ignore[no-untyped-call]
    return compiled.replace("timestamp with time zone", "timestamptz")


def _default_of(column: sa.Column[Any]) -> str:
    if isinstance(column.server_default, sa.Identity):
        return ", generated"
    if isinstance(column.server_default, sa.Computed):
        return ", computed"
    if isinstance(column.server_default, sa.DefaultClause):
        return f", default {code(column.server_default.arg)}"
    return ""


def diagram() -> str:
    """Return the tables and how they refer to each other, as a mermaid diagram."""
    # The raw tables have no foreign keys in the database; a column of the same name says as much.
    targets = {
        key[0].name: t
        for t in metadata.sorted_tables
        if len(key := list(t.primary_key.columns)) == 1
    }
    lines = ["erDiagram"]
    entities = []
    for of in metadata.sorted_tables:
        entities.append(f"    {of.name} {{")
        for column in of.columns:
            target = next((t for name, t in targets.items() if column.name.endswith(name)), None)
            own = target is of and column.primary_key
            marks = ["PK"] if column.primary_key else []
            if target is not None and not own:
                marks.append("FK")
                many = "o{" if column.name in targets or not column.nullable else "o|"
                one = "|o" if column.nullable else "||"
                lines.append(f'    {target.name} {one}--{many} {of.name} : "{column.name}"')
            kind = _type(column).replace(" ", "_")
            entities.append(f"        {kind} {column.name} {', '.join(marks)}".rstrip())
        entities.append("    }")
    return "\n".join(["```mermaid", *lines, *entities, "```"])


PARTS: Mapping[str, Callable[[], str]] = {
    "quantities": quantities,
    "models": models,
    "not stored": not_stored,
    "row rules": row_rules,
    "file rules": file_rules,
    "flags": flags,
    "settings": settings,
    "metrics": metric_names,
    "commands": command_help,
    "tables": tables,
    "diagram": diagram,
    "views": views,
    "functions": functions,
    "bands": bands,
    "limits": limits,
}
_PART = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def renewed(text: str) -> str:
    """Return a page with its generated parts as the code has them today."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


# --- The queries --------------------------------------------------------------------------------


class Query(NamedTuple):
    """A query on a page, and the result shown beneath it."""

    title: str
    sql: str
    shown: str


_QUERY = re.compile(r"```sql\n(?P<sql>.*?)```\n\n```text\n(?P<shown>.*?)```", re.DOTALL)


def queries(text: str) -> list[Query]:
    """Return the queries of a page in order, each named by the heading above it."""
    found = []
    for match in _QUERY.finditer(text):
        titles = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)
        found.append(Query(titles[-1], match["sql"], match["shown"]))
    return found


def ask(url: str, sql: str, *options: str) -> str:
    """Return what psql prints for a query, with more of its options if need be."""
    psql = str(bin_dir() / "psql")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_"))}
    done = subprocess.run(
        [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", url, *options, "-f", "-"],
        input=f"SET TIME ZONE 'UTC';\n{sql}",
        capture_output=True,
        text=True,
        check=False,
        env=kept | {"LC_ALL": "C.UTF-8", "PGCLIENTENCODING": "UTF8"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.rstrip("\n").split("\n"))


def load_samples(home: Path, url: str) -> None:
    """Load `sample_data/` through the real flow, in the order of the files' names."""
    from pipeline import logs
    from pipeline.config import load_settings
    from pipeline.daemon import Daemon
    from pipeline.files.watch import ENDINGS
    from pipeline.flow import Flow
    from pipeline.store import engine as engines
    from pipeline.store.load import Store
    from pipeline.store.migrate import upgrade

    logs.configure("error", None, console=False)
    site = load_settings(home, database_url=url)
    site.data.mkdir(parents=True)
    samples = sorted(p for p in (ROOT / "sample_data").iterdir() if p.name.endswith(ENDINGS))
    for second, sample in enumerate(samples, start=1_500_000_000):
        copy = shutil.copyfile(sample, site.data / sample.name)
        os.utime(copy, (second, second))
    engine = engines.create(url)
    try:
        upgrade(engine)
        flow = Flow(site, Store(engine), site.site_contract(), 10.0)
        for outcome in Daemon(flow, site).drain():
            if outcome.state not in {"loaded", "refused"}:
                message = f"{outcome.name}: {outcome.state}: {outcome.message}"
                raise RuntimeError(message)
    finally:
        engine.dispose()


def answered(text: str) -> str:
    """Return a page with the results of its queries as the sample files give them."""
    with tempfile.TemporaryDirectory(prefix="sofia-air-docs-") as folder:
        home = Path(folder)
        with EmbeddedPostgres(home) as server:
            load_samples(home, server.url)

            def filled(match: re.Match[str]) -> str:
                result = ask(server.url, match["sql"])
                return f"```sql\n{match['sql']}```\n\n```text\n{result}```"

            return _QUERY.sub(filled, text)


# --- The command line ---------------------------------------------------------------------------


def main() -> int:
    """Rewrite or check the pages; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when stale")
    parser.add_argument("--queries", action="store_true", help="ask the queries of analysis.md too")
    given = parser.parse_args()
    stale = []
    for page, after in _pages(given.queries):
        if page.read_text(encoding="utf-8") == after:
            continue
        stale.append(page.relative_to(ROOT))
        if not given.check:
            page.write_text(after, encoding="utf-8")
    for name in stale:
        sys.stdout.write(f"{name}: {'stale' if given.check else 'rewritten'}\n")
    if given.check and stale:
        sys.stdout.write("run `python docs/generate.py`\n")
    return 1 if given.check and stale else 0


def _pages(with_queries: bool) -> Iterator[tuple[Path, str]]:
    """Yield every page that is generated, or has parts that are, and what it should be."""
    folder = ROOT / "docs"
    yield folder / "sofia-air.example.toml", sample_configuration()
    for page in sorted(folder.glob("*.md")):
        text = renewed(page.read_text(encoding="utf-8"))
        yield page, answered(text) if with_queries and page.name == "analysis.md" else text


if __name__ == "__main__":
    sys.exit(main())
