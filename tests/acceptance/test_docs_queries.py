"""An analyst's first queries: each runs as the documentation shows it, and psql explains the rest.

The database holds what the real flow makes of `sample_data/`.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.store.tables import RAW, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_postgresql.executors import NoopExecutor

    from tests.conftest import Server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
generate: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "generate.py"))
QUERIES = generate["queries"](PAGE)


@pytest.fixture(scope="module")
def samples_url(
    server: Server, template: NoopExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a database that holds the sample files."""
    with server.database(template.template_dbname) as url:
        generate["load_samples"](tmp_path_factory.mktemp("samples") / "home", url)
        yield url


def test_there_are_queries_and_each_shows_its_result() -> None:
    assert len(QUERIES) >= 5
    assert len(QUERIES) == PAGE.count("```sql\n")


@pytest.mark.parametrize("query", QUERIES, ids=[query.title for query in QUERIES])
def test_the_query_gives_the_result_that_is_shown(query: Any, samples_url: str) -> None:
    assert generate["ask"](samples_url, query.sql) == query.shown


@pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.name)
def test_psql_explains_every_column(table: Any, samples_url: str) -> None:
    told = generate["ask"](samples_url, rf"\d+ air.{table.name}")
    rows = [line.split("|") for line in told.split("\n") if line.count("|") > 5]
    explained = {row[0].strip(): row[-1].strip() for row in rows}
    for column in table.columns:
        assert explained[column.name] == column.comment


@pytest.mark.parametrize("table", RAW)
def test_a_query_that_names_its_time_reads_only_its_months(table: str, samples_url: str) -> None:
    plan = generate["ask"](
        samples_url,
        f"EXPLAIN SELECT * FROM air.{table} WHERE ts >= '2018-03-01' AND ts < '2018-04-01'",
    )
    assert f"{table}_2018_03" in plan
    assert f"{table}_2018_01" not in plan


def test_the_readme_shows_the_books_of_the_sample_files(samples_url: str) -> None:
    told = generate["ask"](
        samples_url,
        "SELECT format('%s files: %s loaded, %s refused. %s rows = %s loaded + %s duplicate"
        " + %s quarantined', count(*), count(*) FILTER (WHERE state = 'loaded'),"
        " count(*) FILTER (WHERE state = 'refused'), to_char(sum(rows_read), 'FM999,999'),"
        " to_char(sum(rows_loaded), 'FM999,999'), sum(rows_duplicate), sum(rows_quarantined))"
        " FROM air.source_file",
    )
    assert told.split("\n")[2].strip() in (ROOT / "README.md").read_text(encoding="utf-8")
