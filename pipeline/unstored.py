"""Unstored: files of a sensor type whose readings are not stored, under a header of one that is.

A PPD42NS has the very columns of an SDS011, and counts particles in them. A file of nothing else is
refused as a whole; such rows among others are rejected one by one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pipeline.contract import Contract
from pipeline.contract.header import Header, split_line
from pipeline.contract.models import NOT_STORED_TYPES
from pipeline.errors import FileRefused


def first_type(text: bytes, header: Header, contract: Contract) -> str | None:
    """Return the sensor type of a text's first row if it is one that is not stored.

    Args:
        text: whole lines below the header.
        header: what names their columns.
        contract: the models in force.
    """
    if "sensor_type" not in header.names:
        return None
    line = text.lstrip(b"\r\n").partition(b"\n")[0].decode(errors="replace")
    cells = dict(zip(header.names, split_line(line, header.delimiter), strict=False))
    name = cells.get("sensor_type", "").strip().lower()
    return name if name in NOT_STORED_TYPES and name not in contract.models else None


def refuse(name: str, header: Header, texts: Iterable[bytes]) -> None:
    """Refuse a file all of whose rows are of a sensor type that is not stored.

    Args:
        name: the sensor type.
        header: what names the columns.
        texts: the file's rows, as pieces of whole lines.

    Raises:
        FileRefused: all rows are of this type.
    """
    mark = re.escape(header.delimiter)
    before = header.names.index("sensor_type")
    row = re.compile(
        rf'^(?:[^{mark}\n]*{mark}){{{before}}}[ "]*{re.escape(name)}[ "]*(?=[{mark}\r\n])'.encode(),
        re.MULTILINE | re.IGNORECASE,
    )
    for text in texts:
        lines = text.count(b"\n") - len(re.findall(rb"^\r?\n", text, re.MULTILINE))
        if sum(1 for _ in row.finditer(text)) != lines:
            return
    message = (
        f"this is a file of a {name.upper()}, whose rows hold {NOT_STORED_TYPES[name]}; "
        "only particulate matter, temperature, humidity and pressure are stored"
    )
    raise FileRefused("not_stored", message)
