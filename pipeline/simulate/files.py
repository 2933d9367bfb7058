"""Files: from a simulation to files on disk, and the list of what is wrong in them.

A stretch of time is made for all sensors at once, turned into text, and cut into the dialect's
files; so memory does not grow with how long a simulation lasts. A file appears under its name only
when it is whole: the folder may be the one that the pipeline watches.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.contract import EARLIEST, Contract
from pipeline.errors import InvalidArgument
from pipeline.files.atomic import tidy, writing
from pipeline.files.disk import disk_trouble
from pipeline.files.permissions import create, make_folder
from pipeline.simulate.damage import KINDS
from pipeline.simulate.faults import Injector
from pipeline.simulate.layout import Layout, lines
from pipeline.simulate.network import DAY, REPORTS_A_DAY, Network, reports
from pipeline.simulate.noise import Ints, Noise
from pipeline.simulate.spec import Fault, SimulatedFile, Simulation
from pipeline.simulate.weather import Air

_ROWS_AT_A_TIME = 200_000
_EPOCH = date(1970, 1, 1)


def write(
    simulation: Simulation, folder: Path, contract: Contract | None = None
) -> list[SimulatedFile]:
    """Write the files of a simulation. Files of the same names are replaced.

    Args:
        simulation: what to simulate.
        folder: where to write; made when it is not there.
        contract: what is accepted; the published contract when left out.

    Returns:
        The files, model by model and in the order of time.

    Raises:
        InvalidArgument: the simulation asks for what cannot be.
        DiskTrouble: a file cannot be written; what was begun of it is gone again.
    """
    contract = contract or Contract.default()
    _refuse_impossible(simulation, contract)
    with disk_trouble(folder, "made"):
        make_folder(folder)
    tidy([folder])
    runs = [_Run(simulation, contract, position) for position in range(len(simulation.models))]
    if simulation.fault_rate and not any(run.injector.kinds for run in runs):
        message = "faults: none of the chosen kinds can occur in files of this dialect and models"
        raise InvalidArgument(message)
    return [file for run in runs for file in run.write(folder)]


def write_manifest(files: Iterable[SimulatedFile], path: Path) -> None:
    """Write what is wrong in files: one JSON object a line and faulty line of a file.

    The keys are `file` (its name), `line`, `kind`, `outcome` and `reasons`, a list of
    `[column, rule]`.

    Raises:
        DiskTrouble: it cannot be written.
    """
    with (
        disk_trouble(path),
        io.TextIOWrapper(create(path, follow=True), encoding="utf-8", newline="\n") as manifest,
    ):
        for file in files:
            for fault in file.faults:
                entry = {
                    "file": file.path.name,
                    "line": fault.line,
                    "kind": fault.kind,
                    "outcome": fault.outcome,
                    "reasons": fault.reasons,
                }
                manifest.write(json.dumps(entry) + "\n")


def _refuse_impossible(simulation: Simulation, contract: Contract) -> None:
    last = _last_day(simulation)
    room = ((last - simulation.start).days + 1) * simulation.sensors * REPORTS_A_DAY
    today = datetime.now(UTC).date()
    models, kinds = simulation.models, simulation.faults
    complaints = {
        "sensors: at least 1": simulation.sensors < 1,
        "days: at least 1": simulation.days < 1,
        "rows: at least 1": simulation.rows is not None and simulation.rows < 1,
        "models: at least one, each once": not models or len(set(models)) < len(models),
        "fault_rate: from 0 to 0.5": not 0 <= simulation.fault_rate <= 0.5,
        f"start: from {EARLIEST:%Y-%m-%d}": simulation.start < EARLIEST.date(),
        "days: the last one must not be in the future": last > today,
        f"rows: only about {room:,} fit between start and today; more sensors give more": (
            simulation.rows is not None and simulation.rows > room
        ),
    }
    for name in models:
        message = f"models: '{name}' is unknown; known are {', '.join(contract.models)}"
        complaints[message] = name not in contract.models
    for name in kinds:
        message = f"faults: '{name}' is unknown; known are {', '.join(KINDS)}"
        complaints[message] = name not in KINDS
    for complaint, true in complaints.items():
        if true:
            raise InvalidArgument(complaint)


def _last_day(simulation: Simulation) -> date:
    if simulation.rows is None:
        return simulation.start + timedelta(days=simulation.days - 1)
    # However many days it takes, but never into the future: such rows would not be clean.
    return datetime.now(UTC).date()


@dataclass(frozen=True, slots=True)
class _Chunk:
    """The clean lines of a stretch of time, and where each file's begin and end."""

    text: bytes
    pieces: list[tuple[str, int, int]]  # file name, first byte, end


class _Run:
    """Writes all files of one model."""

    def __init__(self, simulation: Simulation, contract: Contract, position: int) -> None:
        self._simulation = simulation
        self._contract = contract
        self._position = position
        model = contract.models[simulation.models[position]]
        self._layout = Layout.of(simulation.dialect, model, contract, index=simulation.index_column)
        self._noise = Noise(simulation.seed)
        self._network = Network.around_sofia(
            self._noise, simulation.sensors, len(simulation.models)
        )
        self._air = Air(self._noise, self._network)
        self.injector = Injector(
            self._layout,
            contract,
            simulation.faults or tuple(KINDS),
            simulation.fault_rate,
            f"{simulation.seed}/{simulation.dialect}/{model.name}",
        )

    def write(self, folder: Path) -> Iterator[SimulatedFile]:
        """Write the files; each is yielded when it is whole."""
        pieces = (
            (name, chunk.text[first:end])
            for chunk in self._chunks()
            for name, first, end in chunk.pieces
        )
        for name, parts in groupby(pieces, key=lambda piece: piece[0]):
            with _appearing(folder / name, compressed=self._simulation.gzip) as file:
                file.write(f"{self._layout.header}\n".encode())
                line = 2
                faults: list[Fault] = []
                for _, clean in parts:
                    text, found = self.injector.inject(clean, line)
                    file.write(text)
                    line += text.count(b"\n")
                    faults += found
            none = sum(fault.outcome == "no row" for fault in faults)
            yield SimulatedFile(folder / name, line - 2 - none, faults)

    def _chunks(self) -> Iterator[_Chunk]:
        simulation = self._simulation
        left = simulation.rows
        index, month = 0, 0
        for begin, end in self._stretches():
            station, seconds = reports(
                self._noise, simulation.sensors, self._position, begin * DAY, end * DAY
            )
            # Reports come by station: a stable sort keeps that order among equals.
            by_time = simulation.dialect == "sofia"
            order = np.argsort(seconds if by_time else seconds // DAY, kind="stable")[:left]
            station, seconds = station[order], seconds[order]
            if _day(begin).month != month:
                index, month = 0, _day(begin).month
            yield self._chunk(station, seconds, index)
            index += len(seconds)
            if left is not None:
                left -= len(seconds)
                if not left:
                    return

    def _stretches(self) -> Iterator[tuple[int, int]]:
        """Yield first day and end, in days since 1970; none of them crosses a month's end."""
        per_day = self._simulation.sensors * REPORTS_A_DAY
        at = (self._simulation.start - _EPOCH).days
        end = (_last_day(self._simulation) - _EPOCH).days + 1
        while at < end:
            next_month = (_day(at).replace(day=1) + timedelta(days=32)).replace(day=1)
            until = min(at + max(1, _ROWS_AT_A_TIME // per_day), end, (next_month - _EPOCH).days)
            yield at, until
            at = until

    def _chunk(self, station: Ints, seconds: Ints, first_index: int) -> _Chunk:
        text = lines(
            self._layout,
            self._contract,
            self._network,
            position=self._position,
            station=station,
            seconds=seconds,
            readings=self._air.readings(self._layout.model.columns.values(), station, seconds),
            first_index=first_index,
        )
        ending = ".csv.gz" if self._simulation.gzip else ".csv"
        model = self._layout.model.name
        day = seconds // DAY
        if not len(day):
            return _Chunk(text, [])
        if self._simulation.dialect == "sofia":
            name = f"{_day(int(day[0])):%Y-%m}_{model}sof{ending}"
            return _Chunk(text, [(name, 0, len(text))])
        first = np.flatnonzero(np.diff(day, prepend=-1) | np.diff(station, prepend=-1))
        sensor = self._network.sensor_id[station[first]] + self._position
        names = (
            f"{_day(one):%Y-%m-%d}_{model}_sensor_{sensor_id}{ending}"
            for one, sensor_id in zip(day[first].tolist(), sensor.tolist(), strict=True)
        )
        line_starts = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
        cuts = [0, *line_starts[first[1:] - 1].tolist(), len(text)]
        return _Chunk(text, list(zip(names, cuts[:-1], cuts[1:], strict=True)))


def _day(number: int) -> date:
    return _EPOCH + timedelta(days=number)


@contextmanager
def _appearing(path: Path, *, compressed: bool) -> Iterator[BinaryIO | io.BufferedIOBase]:
    """Open a new file that takes its name, and any older one's place, once it is whole."""
    # Not synced: what a power cut takes can be simulated again, and thousands of small files would
    # take minutes.
    with writing(path, durable=False) as file:
        if compressed:
            # No name and no time inside: the same content is the same bytes.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                yield packed
        else:
            yield file
