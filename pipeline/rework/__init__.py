"""Rework: bring repaired rows back, take files back, and tell why a reading is what it is.

::

    quarantine/*.csv ─┐
    an exported sheet ├─► edits ─► replay ──► one transaction: readings, books, repaired rows
    rows as they stood┘               └─────► sheets: what is still open, in quarantine/
    sources (archive) ──► retract, why
"""

from __future__ import annotations
