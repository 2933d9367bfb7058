"""Simulate: realistic files of any size, clean or with faults whose fate is known beforehand.

For tests, benchmarks, the demo and for trying things out without real data. Nothing here is
measured: an invented network of sensors around Sofia breathes an invented but plausible air.

::

    noise ──► network (who stands where, and when it reports) ─┐
          └─► weather (what it reads) ─────────────────────────┴─► layout (text) ──► files
                                             damage ──► faults (which lines, the oracle) ──┘

The same `Simulation` always gives the same bytes. Clean rows always satisfy the contract. For each
damaged line the returned `Fault` says exactly what the pipeline has to report, which makes
`write_manifest` an oracle that is independent of the pipeline's own code.
"""

from __future__ import annotations

from pipeline.simulate.damage import FAULT_KINDS
from pipeline.simulate.files import write, write_manifest
from pipeline.simulate.samples import write_sample_data
from pipeline.simulate.spec import Fault, SimulatedFile, Simulation

__all__ = [
    "FAULT_KINDS",
    "Fault",
    "SimulatedFile",
    "Simulation",
    "write",
    "write_manifest",
    "write_sample_data",
]
