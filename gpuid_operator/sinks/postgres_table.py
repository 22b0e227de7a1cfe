"""Inspects and migrates the table of the postgres sink before the first batch."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg

from gpuid_operator.sinks import postgres_catalog as catalog
from gpuid_operator.sinks.base import MAX_MESSAGE, Refused
from gpuid_operator.sinks.postgres_schema import Migration, plan_migration
from gpuid_operator.sinks.postgres_wire import read_rows

_STATEMENT_TIMEOUT: Final = 600.0
# For a statement that reads the history, in milliseconds. Writers wait meanwhile.
_OPTIONAL_TIMEOUT: Final = 180_000
_LOCK: Final = 0x67707569  # "gpui": only one instance may migrate at a time


@dataclass(frozen=True)
class Prepared:
    """A table that was found fit, or made so."""

    table: str
    """Quoted and qualified."""
    uniques: tuple[catalog.Unique, ...]
    advice: str
    """Optional SQL, for what the sink can do without; empty if there is none."""
    failure: str = ""
    """Why the migration did without it."""


async def prepare(
    connection: Any, *, namespace: str | None, name: str, migrate: bool, optional: bool
) -> Prepared:
    """Verify or migrate the table, with what is `optional` if the database lets it.

    Raises Refused, with the SQL to run, if something is missing and `migrate` is false.
    """
    failure = ""
    async with asyncio.timeout(_STATEMENT_TIMEOUT) as limit:
        await connection.execute("BEGIN")
        if migrate:
            await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        found = await _inspect(connection, namespace=namespace, name=name)
        if migrate and found.migration.statements:
            await _run(connection, found.migration.required, limit)
            if optional:
                failure = await _extend(connection, found.migration.useful, limit)
            found = await _inspect(connection, namespace=namespace, name=name)
        elif found.migration.problems:
            raise _missing(found.migration)
        await connection.execute("COMMIT")
    return replace(found.prepared, failure=failure)


async def _run(connection: Any, statements: list[str], limit: asyncio.Timeout) -> None:
    """Run statements, each of which has the whole time."""
    for statement in statements:
        await connection.execute(statement)
        limit.reschedule(asyncio.get_running_loop().time() + _STATEMENT_TIMEOUT)


async def _extend(connection: Any, statements: list[str], limit: asyncio.Timeout) -> str:
    """Run all of the statements or none, and return why none."""
    await connection.execute(
        f"SAVEPOINT gpuid_optional; SET LOCAL statement_timeout = {_OPTIONAL_TIMEOUT}"
    )
    try:
        await _run(connection, statements, limit)
    except asyncpg.PostgresError as error:
        await connection.execute("ROLLBACK TO SAVEPOINT gpuid_optional")
        return str(error)
    await connection.execute("SET LOCAL statement_timeout = DEFAULT")
    return ""


@dataclass(frozen=True)
class _Inspected:
    prepared: Prepared
    migration: Migration


async def _inspect(connection: Any, *, namespace: str | None, name: str) -> _Inspected:
    regclass = catalog.literal(catalog.quoted(namespace, name))
    tables = await read_rows(connection, catalog.TABLE_QUERY.format(table=regclass), catalog.Table)
    table = tables[0] if tables else None
    if table is not None:
        namespace = table.schema
    elif namespace is None:
        (current,) = await read_rows(connection, catalog.SCHEMA_QUERY, catalog.CurrentSchema)
        namespace = current.schema
    if namespace is None:
        raise Refused(f"no schema for table {name}: use schema.{name}, or set a search_path")
    quoted = catalog.quoted(namespace, name)
    if table is not None and not table.is_table:
        raise Refused(f"{quoted} is not a table: use another name")
    uniques = await read_uniques(connection, quoted)
    query = catalog.VIEWS_QUERY.format(
        table=catalog.literal(quoted), schema=catalog.literal(namespace)
    )
    (views,) = await read_rows(connection, query, catalog.Views)
    migration = plan_migration(table, uniques, views, schema=namespace, name=name)
    advice = migration.sql if migration.useful else ""
    return _Inspected(Prepared(quoted, uniques, advice), migration)


async def read_uniques(connection: Any, table: str) -> tuple[catalog.Unique, ...]:
    """The unique indexes of a quoted table."""
    query = catalog.UNIQUES_QUERY.format(table=catalog.literal(table))
    return tuple(await read_rows(connection, query, catalog.Unique))


def _missing(migration: Migration) -> Refused:
    """The error with the problem and the SQL to run: in the message if it fits, always in the
    log."""
    problem = "; ".join(migration.problems)
    advice = "set autoMigrate: true, or run"
    sql = " ".join(f"{statement};" for statement in migration.required)
    message = f"{problem}: {advice} {sql}"
    if len(message) > MAX_MESSAGE:
        message = f"{problem}: {advice} the SQL in the operator's log"
    return Refused(message, detail=migration.sql)
