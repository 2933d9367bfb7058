"""What the fault tests share: a quick way to start the daemon, files, and a server to kill."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.register_assert_rewrite("tests.faults.harness")

from tests.faults.harness import (  # noqa: E402
    Contents,
    File,
    Postgres,
    Site,
    Starter,
    big_set,
    site,
    small_set,
    undisturbed,
)

if TYPE_CHECKING:
    from pytest_postgresql.executors import NoopExecutor

    from tests.conftest import Server

_numbers = count(1)


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    with Starter() as started:
        yield started


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> list[File]:
    return small_set(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def big(tmp_path_factory: pytest.TempPathFactory) -> list[File]:
    return big_set(tmp_path_factory.mktemp("big"))


@pytest.fixture(scope="session")
def expected(
    small: list[File],
    server: Server,
    template: NoopExecutor,
    starter: Starter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Contents:
    """What one undisturbed run makes of the small set."""
    with server.database(template.template_dbname) as url:
        return undisturbed(tmp_path_factory.mktemp("calm"), url, starter, small)


@pytest.fixture(scope="session")
def expected_of_big(
    big: list[File],
    server: Server,
    template: NoopExecutor,
    starter: Starter,
    tmp_path_factory: pytest.TempPathFactory,
) -> Contents:
    """What one undisturbed run makes of the big set."""
    with server.database(template.template_dbname) as url:
        return undisturbed(tmp_path_factory.mktemp("calm"), url, starter, big)


@pytest.fixture
def make_site(
    server: Server, template: NoopExecutor, starter: Starter, tmp_path: Path
) -> Iterator[Callable[..., Site]]:
    """Make a site with a database of its own, and settings."""
    with ExitStack() as made:

        def make(**settings: object) -> Site:
            url = made.enter_context(server.database(template.template_dbname))
            home = tmp_path / f"home-{next(_numbers)}"
            return made.enter_context(site(home, url, starter, **settings))

        yield make


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of our own to stop and kill."""
    with (
        tempfile.TemporaryDirectory(prefix="sofia-air-faults-") as home,
        Postgres(Path(home)) as own,
    ):
        yield own
