"""Benchmarks: the package beside psql, pandas and pgloader, on one machine, in one run.

`python -m benchmarks` makes its input, measures, and writes `docs/benchmarks.md`. Everything is a
ratio of two things that were measured by turns, since machines are shared and noisy. Both sides use
the same server with the same settings, into tables with the same keys and partitions, and ours does
everything it does in real life: hash, validate, quarantine, ledger, statistics, commit, archive.
"""
