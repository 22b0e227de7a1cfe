"""Why the database kept fewer rows than a batch has, and whether that is all right.

`INSERT … ON CONFLICT DO NOTHING` skips a row that conflicts with any unique index. A conflict on
record_id means that the row is there already, as after a crash between a send and its
acknowledgement. Any other conflict (an id whose sequence is behind the table after a restore, a
UNIQUE of the user's own) means that the record is not in the table, so it must not count as
delivered. To find out takes no right but INSERT: each row is inserted alone, and the error names
the index.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import asyncpg

from gpuid_operator.sinks.base import Refused
from gpuid_operator.sinks.postgres_schema import WRITTEN_COLUMNS, Unique, literal, quoted

_SAVEPOINT: Final = "gpuid_row"


def inserted(command_tag: str) -> int:
    """The number of rows that an INSERT reports, as in `INSERT 0 3`."""
    return int(command_tag.rpartition(" ")[2])


async def check_conflicts(
    connection: Any, *, table: str, records: int, uniques: Collection[Unique]
) -> None:
    """Within the transaction of a batch: raise Refused unless every row that is missing is in the
    table already, by its record_id.

    `table` is quoted, `records` the size of the batch, `uniques` are the table's unique indexes as
    they were when the table was inspected.
    """
    ids = {
        name
        for unique in uniques
        if unique.keeps_ids_apart
        for name in (unique.index, unique.constraint)
    }
    columns = ", ".join(WRITTEN_COLUMNS)
    for position in range(records):
        await connection.execute(f"SAVEPOINT {_SAVEPOINT}")
        try:
            await connection.execute(
                f"INSERT INTO {table} ({columns}, created_at)"  # noqa: S608 - quoted by the caller
                f" SELECT {columns}, now() FROM pg_temp.gpuid_batch WHERE position = {position}"
            )
        except asyncpg.UniqueViolationError as error:
            await connection.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
            if error.constraint_name not in ids:
                raise _refused(table, error.constraint_name or "", uniques) from error


def _refused(table: str, name: str, uniques: Collection[Unique]) -> Refused:
    known = next((one for one in uniques if name in (one.index, one.constraint)), None)
    columns = known.columns if known else ()
    if columns == ("id",):
        sql = (
            f"SELECT setval(pg_get_serial_sequence({literal(table)}, 'id'),"  # noqa: S608 - quoted
            f" (SELECT max(id) FROM {table}))"
        )
        return Refused(
            f"table {table} takes no new row: the sequence of its id is behind max(id), as after a"
            f" restore or a failover; run {sql};",
            detail=f"{sql};\n",
        )
    drop = (
        f"ALTER TABLE {table} DROP CONSTRAINT {quoted(name)}"
        if known is None or known.constraint
        else f"DROP INDEX {quoted(_schema_of(table), name)}"
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
