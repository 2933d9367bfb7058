"""`simulate`: write realistic files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import typer

from pipeline.cli.session import print_json
from pipeline.contract import Contract
from pipeline.errors import InvalidArgument
from pipeline.files.permissions import make_folder


def simulate(
    folder: Path, options: dict[str, Any], manifest: Path | None, *, as_json: bool
) -> None:
    """Write the files, and say what is in them."""
    from pipeline.simulate import FAULT_KINDS, Simulation, write, write_manifest

    options = {name: value for name, value in options.items() if value is not None}
    _refuse_unknown("--model", options.get("models", ()), list(Contract.default().models))
    _refuse_unknown("--fault", options.get("faults", ()), list(FAULT_KINDS))
    started = time.monotonic()
    make_folder(folder)
    files = write(Simulation(**options), folder)
    if manifest is not None:
        write_manifest(files, manifest)
    seconds = time.monotonic() - started
    rows = sum(file.rows for file in files)
    faults = sum(len(file.faults) for file in files)
    if as_json:
        print_json(
            {
                "files": [
                    {"path": file.path, "rows": file.rows, "faults": len(file.faults)}
                    for file in files
                ],
                "rows": rows,
                "faults": faults,
                "manifest": manifest,
            }
        )
        return
    for file in files[:10]:
        typer.echo(f"{file.path}  {file.rows:,} rows, {len(file.faults):,} faults")
    if len(files) > 10:
        typer.echo(f"… and {len(files) - 10:,} more")
    typer.echo(f"{len(files):,} files, {rows:,} rows, {faults:,} faults in {seconds:.1f} s")
    if manifest is not None:
        typer.echo(f"every fault and its reasons: {manifest}")


def _refuse_unknown(option: str, given: tuple[str, ...], known: list[str]) -> None:
    for name in given:
        if name not in known:
            message = f"{option}: '{name}' is unknown; known are {', '.join(known)}"
            raise InvalidArgument(message)
