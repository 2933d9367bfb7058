"""How alembic reaches the database, and what it looks at there.

It comes here in two ways: from `pipeline.store.migrate`, with a connection, and from the `alembic`
command in a checkout, with the database of the settings (`SOFIA_AIR_DATABASE_URL`, `DATABASE_URL`,
...; with none set, the private PostgreSQL in the home folder, as `sofia-air` does).

Everything lives in the schema `air`, alembic's own version table too: so the schema has to be there
before the first migration, and can go only after the last has been undone. Both happen here.
"""

from __future__ import annotations

from contextlib import contextmanager
from logging.config import fileConfig
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from pipeline.config import load_settings
from pipeline.errors import PipelineError
from pipeline.store.engine import create
from pipeline.store.migrate import VERSION_TABLE, lock
from pipeline.store.refusals import guarded
from pipeline.store.tables import SCHEMA, metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def main() -> None:
    """Do what alembic was asked for."""
    given: sa.Connection | None = context.config.attributes.get("connection")
    if given is not None:
        migrate(given)
        return
    if context.config.config_file_name is not None:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    if context.is_offline_mode():
        write_sql()
        return
    try:
        with database_url() as url, guarded():
            engine = create(url)
            try:
                with engine.begin() as connection:
                    migrate(connection)
            finally:
                engine.dispose()
    except PipelineError as error:
        raise CommandError(str(error)) from error


@contextmanager
def database_url() -> Iterator[str]:
    """Yield the address of the database that `sofia-air` would use here."""
    settings = load_settings()
    if settings.database.url is not None:
        yield settings.database.url.get_secret_value()
        return
    from pipeline.embedded import EmbeddedPostgres

    with EmbeddedPostgres(settings.home) as server:
        yield server.url


def migrate(connection: sa.Connection) -> None:
    """Run the migrations, or whatever else alembic does, inside the caller's transaction."""
    lock(connection)
    new_schema = not sa.inspect(connection).has_schema(SCHEMA)
    if new_schema:
        connection.execute(sa.schema.CreateSchema(SCHEMA))
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
        include_schemas=True,
        include_name=only_ours(connection),
        compare_type=True,
        compare_server_default=True,
    )
    was_migrated = context.get_context().get_current_heads() != ()
    context.run_migrations()
    if context.get_context().get_current_heads() == ():
        # All is undone; or nothing was ever done (`alembic current` on an empty database), and then
        # a schema that an administrator prepared stays. What somebody else put into the schema
        # makes this fail, and so stay too.
        connection.execute(sa.text(f"DROP TABLE IF EXISTS {SCHEMA}.{VERSION_TABLE}"))
        if new_schema or was_migrated:
            connection.execute(sa.schema.DropSchema(SCHEMA))


def write_sql() -> None:
    """Write the statements instead of running them (`alembic upgrade head --sql`)."""
    context.configure(
        dialect_name="postgresql",
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        version_table_schema=SCHEMA,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},  # with the driver's own, every % would be doubled
    )
    with context.begin_transaction():
        context.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        context.run_migrations()


def only_ours(connection: sa.Connection) -> Callable[[str | None, str, Any], bool]:
    """Return the filter for what alembic compares: the schema `air`, without the partitions.

    Partitions are made when readings need them, and are no business of the migrations.
    """
    partitions = set(
        connection.scalars(
            sa.text(
                "SELECT relname FROM pg_class"
                " WHERE relispartition AND relnamespace = to_regnamespace(:schema)"
            ),
            {"schema": SCHEMA},
        )
    )

    def include(name: str | None, kind: str, _parents: Any) -> bool:
        if kind == "schema":
            return name == SCHEMA
        return kind != "table" or name not in partitions

    return include


main()
