"""Core: from text to readings, pure: the same block gives the same tables, wherever and whenever.

::

    Block ──► parse ──► validate ──► normalise ──► (aggregate) ──► Processed
                │          │            │
                └──────────┴─ rejected  └─ repeats: rows whose key an earlier row of the block has

It opens no file and asks no database, no clock and no settings; it starts no threads and counts no
metrics. What goes in and what comes out can be pickled, so it runs as well in another process or on
another machine: `process.process` is the way in, `ranges.blocks_of_range` makes blocks of any part
of a file. Which rows of several blocks repeat or contradict each other, or what is stored, is
decided by the rule in `pipeline.contract.repeats`.
"""
