"""Why the database kept fewer rows than a batch has, and whether that is all right.

`INSERT … ON CONFLICT DO NOTHING` skips a row that conflicts with any unique index. A conflict on
record_id means that the row is there already, as after a crash between a send and its
acknowledgement. Any other conflict (an id whose sequence is behind the table after a restore, a
UNIQUE of the user's own) means that the record is not in the table, so it must not count as
delivered. To find out takes no right but INSERT: each row is inserted alone, and the error names
the index.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg

from gpuid_operator.sinks.base import Refused
from gpuid_operator.sinks.postgres_catalog import Unique, literal, quoted
from gpuid_operator.sinks.postgres_schema import WRITTEN_COLUMNS
from gpuid_operator.sinks.postgres_table import Prepared, read_uniques

_SAVEPOINT: Final = "gpuid_row"


def inserted(command_tag: str) -> int:
    """The number of rows that an INSERT reports, as in `INSERT 0 3`."""
    return int(command_tag.rpartition(" ")[2])


async def check_conflicts(connection: Any, *, table: Prepared, records: int) -> None:
    """Within the transaction of a batch: raise Refused unless every row that is missing is in the
    table already, by its record_id. `records` is the size of the batch.
    """
    columns = ", ".join(WRITTEN_COLUMNS)
    partitions: dict[str, tuple[Unique, ...]] = {}
    for position in range(records):
        await connection.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            await connection.execute(
                f"INSERT INTO {table.table} ({columns}, created_at)"  # noqa: S608 - quoted
                f" SELECT {columns}, now() FROM pg_temp.gpuid_batch WHERE position = {position}"
            )
        except asyncpg.UniqueViolationError as error:
            await connection.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            name = error.constraint_name or ""
            unique = _find(name, table.uniques)
            if unique is None and error.table_name:
                # The error names the index of a partition, which may be newer than `table`.
                partition = quoted(error.schema_name, error.table_name)
                if partition not in partitions:
                    partitions[partition] = await read_uniques(connection, partition)
                unique = _find(name, partitions[partition])
            if unique is None or not unique.keeps_ids_apart:
                uniques = await read_uniques(connection, table.table)
                raise _refused(table.table, name, unique, uniques) from error


def _find(name: str, uniques: tuple[Unique, ...]) -> Unique | None:
    return next((one for one in uniques if name in (one.index, one.constraint)), None)


def _refused(table: str, name: str, unique: Unique | None, uniques: tuple[Unique, ...]) -> Refused:
    """`unique` is the index of this name, if any, `uniques` are those of the quoted table."""
    columns = unique.columns if unique else ()
    if columns[:1] == ("id",) and set(columns) <= {"id", "read_time"}:
        sql = (
            f"SELECT setval(pg_get_serial_sequence({literal(table)}, 'id'),"  # noqa: S608
            f" (SELECT max(id) FROM {table}))"
        )
        return Refused(
            f"table {table} takes no new row: the sequence of its id is behind max(id), as"
            f" after a restore or a failover; run {sql};",
            detail=f"{sql};\n",
        )
    # The index of a partition goes with that of the table.
    own = unique
    if unique not in uniques:
        own = next((one for one in uniques if one.columns == columns), unique)
    drop = (
        f"ALTER TABLE {table} DROP CONSTRAINT {quoted(own.constraint if own else name)}"
        if own is None or own.constraint
        else f"DROP INDEX {quoted(_schema_of(table), own.index)}"
    )
    what = f"UNIQUE ({', '.join(columns)})" if columns else f"constraint {name}"
    return Refused(
        f"{what} of table {table} rejects records that differ only in other columns; run {drop};",
        detail=f"{drop};\n",
    )


def _schema_of(table: str) -> str | None:
    """The schema of a quoted, qualified name."""
    schema, dot, _ = table.rpartition('"."')
    return schema.removeprefix('"').replace('""', '"') if dot else None
