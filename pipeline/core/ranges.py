"""Ranges: blocks of any part of a file, for whoever divides a file among several workers.

A worker needs the part's text, the header that is in force where it begins, and the number of its
first line. Whole lines are processed, so a line belongs to the part in which it begins.
"""

from __future__ import annotations

import numpy as np

from pipeline.contract import Contract
from pipeline.contract.header import Header
from pipeline.core.records import Block
from pipeline.core.sections import Sections


def blocks_of_range(
    text: bytes,
    header: Header,
    contract: Contract,
    *,
    first_line: int,
    source: str = "",
    file: int = 0,
) -> list[Block]:
    r"""Return some consecutive lines of a file as blocks, each under one header.

    There is one block unless another header begins within the lines. The last block's header is in
    force where the next range begins.

    Args:
        text: whole lines, below the file's header line; the last may lack its line end. Lines end
            with a newline, as `files.read` hands them on, also those of files with other line ends.
        header: the header in force above them: of the file, or of a section (`Block.header`).
        contract: the models in force.
        first_line: the number of the first of them in the file, whose first line is number 1: one
            more than the newlines before them.
        source: what the file is known by, for example the SHA-256 of its bytes.
        file: a number for it, where several files are processed together.

    Raises:
        FileRefused: more headers than any joined file has.
    """
    if not text.endswith(b"\n"):
        text += b"\n" * bool(text)
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
    return Sections(file, header, contract, source).cut(text, ends, first_line)
