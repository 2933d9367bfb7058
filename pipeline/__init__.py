"""Sofia Air Pipeline: CSV files of air-quality readings become trusted rows in PostgreSQL.

::

    data/ ──► watch ──► read ──► validate ──► normalise ──► load ──► archive
                          │          │                        │
                          └──────────┴──► quarantine          └─ ledger, raw tables, aggregates,
                                          (reason per row)       all in ONE transaction

Start reading at :mod:`pipeline.flow`, which is this picture in code; what needs memory alone is in
:mod:`pipeline.core`. What a valid reading is stands in :mod:`pipeline.contract`, and
what the database promises in :mod:`pipeline.store`.
"""

__version__ = "0.1.0"
