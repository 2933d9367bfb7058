"""Samples: the small files of `sample_data/`, for the demo, the documentation and the tests.

They are made here so that they can be made again, byte for byte. All of them come from the same
few stations. The first hours of January hold clean air; by the evening of the second day an
inversion has filled the city with smoke.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.files.permissions import create, make_folder
from pipeline.simulate.files import write, write_manifest
from pipeline.simulate.spec import SimulatedFile, Simulation

MANIFEST = "MANIFEST.jsonl"
README = "README.md"

# A seed whose January begins with a smog episode.
_SOFIA = Simulation(seed=128, sensors=3, rows=2400)
_ARCHIVE = Simulation(seed=128, sensors=1, dialect="archive")


@dataclass(frozen=True, slots=True)
class _Sample:
    """One file of readings: the one that a simulation makes for a model."""

    what: str
    model: str
    simulation: Simulation
    suffix: str = ""


_SAMPLES = (
    _Sample("Sofia dialect, clean; a smog episode builds up", "sds011", _SOFIA),
    _Sample("Sofia dialect, clean; the weather at the same stations", "bme280", _SOFIA),
    _Sample(
        "Sofia dialect with every kind of fault that it can have",
        "bme280",
        replace(_SOFIA, start=date(2018, 2, 1), rows=1300, fault_rate=0.03),
        "_dirty",
    ),
    _Sample(
        "archive dialect, clean, compressed",
        "sds011",
        replace(_ARCHIVE, start=date(2018, 3, 5), gzip=True),
    ),
    _Sample("archive dialect, clean", "bme280", replace(_ARCHIVE, start=date(2018, 3, 5))),
    _Sample(
        "archive dialect with every kind of fault that it can have",
        "sds011",
        replace(_ARCHIVE, start=date(2018, 3, 6), fault_rate=0.06),
        "_dirty",
    ),
)

_CUT_SHORT = _Sample(
    "", "sds011", replace(_ARCHIVE, start=date(2018, 3, 7), gzip=True), "_truncated"
)

_NOISE = """\
sensor_id;sensor_type;location;lat;lon;timestamp;noise_LAeq;noise_LA_max;noise_LA_min
2001;Laerm;1000;42.697;23.322;2018-03-07T00:01:12;48.31;61.07;41.22
2001;Laerm;1000;42.697;23.322;2018-03-07T00:03:40;47.86;58.94;41.05
2001;Laerm;1000;42.697;23.322;2018-03-07T00:06:08;52.40;70.15;42.63
"""

_FOREIGN = """\
Station,Date,Time,Temp_C,Wind_kmh
Roof,07.03.2018,00:00,3.4,7
Roof,07.03.2018,00:10,3.3,9
Roof,07.03.2018,00:20,3.3,6
"""

# Files that are unusable as a whole: name → the rule that refuses them, and what they are.
REFUSED: Mapping[str, tuple[str, str]] = {
    "2018-03-07_sds011_sensor_1634_truncated.csv.gz": (
        "corrupt_gzip",
        "archive dialect, the compressed stream cut short",
    ),
    "2018-03-07_laerm_sensor_2001_noise.csv": (
        "not_stored",
        "noise levels: a kind of measurement that is not stored",
    ),
    "weather_station_unknown_header.csv": (
        "unknown_header",
        "another station's export: no sensor model has this header",
    ),
}


_MAKE_AGAIN = (
    'python -c "from pathlib import Path; from pipeline.simulate import write_sample_data; '
    "write_sample_data(Path('sample_data'))\""
)


def write_sample_data(folder: Path) -> list[SimulatedFile]:
    """Write the sample files, the list of their faults, and a README that tells what they are.

    Args:
        folder: where to write; made when it is not there.

    Returns:
        The files that can be loaded. Those that cannot are in `REFUSED`.
    """
    make_folder(folder)
    files = [_take(sample, folder) for sample in _SAMPLES]
    _, noise, foreign = REFUSED
    cut = _take(_CUT_SHORT, folder).path
    content = cut.read_bytes()
    _write(cut, content[: len(content) * 2 // 3])
    _write(folder / noise, _NOISE.encode())
    _write(folder / foreign, _FOREIGN.encode())
    write_manifest(files, folder / MANIFEST)
    _write(folder / README, _readme(files).encode())
    return files


def _take(sample: _Sample, folder: Path) -> SimulatedFile:
    """Keep one file of a simulation, under a name that says what is in it."""
    with TemporaryDirectory(prefix=".", dir=folder) as aside:
        made = write(sample.simulation, Path(aside))
        file = next(file for file in made if f"_{sample.model}" in file.path.name)
        stem, dot, endings = file.path.name.partition(".")
        path = folder / f"{stem}{sample.suffix}{dot}{endings}"
        file.path.replace(path)
    return replace(file, path=path)


def _readme(files: list[SimulatedFile]) -> str:
    table = [
        f"| `{file.path.name}` | {sample.what} | {file.rows:,} | {len(file.faults)} |"
        for file, sample in zip(files, _SAMPLES, strict=True)
    ]
    refused = [f"| `{name}` | {what} | `{rule}` |" for name, (rule, what) in REFUSED.items()]
    return "\n".join(
        [
            "# Sample data",
            "",
            "Small files to try the pipeline with. They are **simulated**: neither the sensors nor",
            "the readings are real.",
            "",
            "| file | what it is | rows | faulty |",
            "|---|---|--:|--:|",
            *table,
            "",
            "These are unusable as a whole, and are refused by the rule that is named:",
            "",
            "| file | what it is | rule |",
            "|---|---|---|",
            *refused,
            "",
            f"`{MANIFEST}` lists every faulty line, one JSON object each: the file, the number of",
            "the line (the header is line 1), the kind of fault, what has to become of the line",
            "(`quarantined`, `duplicate`, or `no row`), and the reasons that have to be reported,",
            "as `[column, rule]`.",
            "",
            "To make them again, byte for byte, in the project's root:",
            "",
            "```sh",
            _MAKE_AGAIN,
            "```",
            "",
            "`sofia-air simulate --help` tells how to make other files, of any size.",
            "",
        ]
    )


def _write(path: Path, content: bytes) -> None:
    with create(path) as file:
        file.write(content)
