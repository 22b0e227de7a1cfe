"""The table of the postgres sink and its views: the SQL of batches and of migrations.

The table of gpuid has the columns GPUID_COLUMNS and a UNIQUE constraint on its seven fields, which
drops the second of two GPUs that share a serial. The sink also needs the columns OWN_COLUMNS, and a
UNIQUE constraint on record_id instead. gpuid can still write to the table: it leaves record_id
null.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from gpuid_operator.sinks import postgres_current as current
from gpuid_operator.sinks.base import Refused
from gpuid_operator.sinks.postgres_catalog import SEVEN, Table, Unique, Views, literal, quoted

OWN_COLUMNS: Final = ("record_id", "event", "uuid", "pci", "product", "driver")
GPUID_COLUMNS: Final = ("id", *SEVEN, "created_at")

WRITTEN_COLUMNS: Final = (*SEVEN, *OWN_COLUMNS)
"""Columns of a record, in the order in which the sink writes them."""

CREATE_BATCH: Final = (
    "CREATE TEMPORARY TABLE gpuid_batch (position BIGINT, read_time TIMESTAMPTZ, "
    + ", ".join(f"{name} TEXT" for name in WRITTEN_COLUMNS if name != "read_time")
    + ") ON COMMIT DROP"
)


@dataclass(frozen=True, kw_only=True)
class Migration:
    """The problems that keep the sink from writing, and the SQL that fixes them."""

    problems: list[str] = field(default_factory=list)
    required: list[str] = field(default_factory=list)
    useful: list[str] = field(default_factory=list)
    """Optional SQL: indexes, views, an id that needs no permission for a sequence."""

    @property
    def statements(self) -> list[str]:
        return [*self.required, *self.useful]

    @property
    def sql(self) -> str:
        """All statements, as one transaction, for psql."""
        statements = self.statements
        if len(statements) > 1:
            statements = ["BEGIN", *statements, "COMMIT"]
        return "".join(f"{statement};\n" for statement in statements)


def split_name(table: str) -> tuple[str | None, str]:
    """Schema (None for that of the search path) and name. Raises Refused for anything else."""
    parts = table.split(".")
    if len(parts) > 2 or "" in parts:
        raise Refused(f"invalid table {table}: use name or schema.name")
    return (parts[0] if len(parts) == 2 else None), parts[-1]


def insert_statement(table: str) -> str:
    """The SQL that moves the batch into the quoted table. ON CONFLICT without a target needs only
    the INSERT permission (with a target, PostgreSQL requires SELECT on its column)."""
    columns = ", ".join(WRITTEN_COLUMNS)
    return (
        f"INSERT INTO {table} ({columns}, created_at)"  # noqa: S608 - quoted by the caller
        f" SELECT {columns}, now() FROM pg_temp.gpuid_batch ORDER BY position"
        " ON CONFLICT DO NOTHING"
    )


def plan_migration(
    table: Table | None,
    uniques: Collection[Unique],
    views: Views,
    *,
    schema: str,
    name: str,
) -> Migration:
    """The migration for a table in this state; `table` is None if it does not exist.

    Raises Refused for a table that is not a gpuid table.
    """
    quoted_name = quoted(schema, name)
    if table is None:
        return Migration(
            problems=[f"table {quoted_name} does not exist"],
            required=[_create(quoted_name)],
            useful=[
                *_indexes(quoted_name, frozenset()),
                *_views(quoted(schema), quoted_name, views, new=True),
            ],
        )
    foreign = [c for c in GPUID_COLUMNS if c not in table.columns and c != "chassis"]
    if foreign:
        raise Refused(
            f"table {quoted_name} has no column {', '.join(foreign)}, so it is not a gpuid table:"
            " use another table"
        )
    problems, required, useful = [], [], []
    missing = [name for name in ("chassis", *OWN_COLUMNS) if name not in table.columns]
    if missing:
        problems.append(f"table {quoted_name} has no column {', '.join(missing)}")
        added = ", ".join(f"ADD COLUMN {name} {_type(name)}" for name in missing)
        required.append(f"ALTER TABLE {quoted_name} {added}")
    for unique in uniques:
        if unique.swallows:
            problems.append(
                f"UNIQUE ({', '.join(unique.columns)}) of table {quoted_name} drops GPUs that"
                " share a serial"
            )
            required.append(_drop(unique, schema=schema, table=quoted_name))
    if not any(unique.keeps_ids_apart for unique in uniques):
        if not table.partitioned_by <= {"read_time", "record_id"}:
            raise Refused(
                f"table {quoted_name} is partitioned by {', '.join(sorted(table.partitioned_by))},"
                " so it can have no UNIQUE on record_id: partition it by read_time"
            )
        columns = ", ".join(sorted({"record_id", *table.partitioned_by}, reverse=True))
        if not missing:
            problems.append(f"table {quoted_name} has no UNIQUE on {columns}")
        required.append(f"ALTER TABLE {quoted_name} ADD UNIQUE ({columns})")
    useful_views = _views(quoted(schema), quoted_name, views, new=False)
    if views.is_enabled and not views.is_maintained:
        problems.append(
            f"the trigger gpu_current_update of {quoted_name} is for another table or schema"
            if views.has_state
            else f"table gpu_current_state of {quoted_name} does not exist"
        )
        required += useful_views
        useful_views = []
    if table.serial_sequence and not table.partitioned_by:
        useful += _identity(quoted_name, table.serial_sequence)
    useful += _indexes(quoted_name, table.indexed)
    useful += useful_views
    return Migration(problems=problems, required=required, useful=useful)


def _type(column: str) -> str:
    return "TEXT NOT NULL DEFAULT 'unknown'" if column == "chassis" else "TEXT"


def _create(table: str) -> str:
    texts = [c for c in SEVEN if c not in ("chassis", "read_time")]
    # TEXT instead of gpuid's VARCHAR(255): namespace and pod name together can be longer.
    columns = [
        "id BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
        *(f"{c} TEXT NOT NULL" for c in texts[:4]),
        f"chassis {_type('chassis')}",
        *(f"{c} TEXT NOT NULL" for c in texts[4:]),
        "read_time TIMESTAMPTZ NOT NULL",
        "created_at TIMESTAMPTZ NOT NULL DEFAULT now()",
        "record_id TEXT UNIQUE",
        *(f"{c} TEXT" for c in OWN_COLUMNS[1:]),
    ]
    return f"CREATE TABLE {table} ({', '.join(columns)})"


def _drop(unique: Unique, *, schema: str | None, table: str) -> str:
    if unique.constraint is not None:
        return f"ALTER TABLE {table} DROP CONSTRAINT {quoted(unique.constraint)}"
    return f"DROP INDEX {quoted(schema, unique.index)}"


def _indexes(table: str, indexed: frozenset[str]) -> list[str]:
    wanted = {"uuid": "uuid, read_time", "gpu": "gpu"}
    return [
        f"CREATE INDEX ON {table} ({columns})"
        for first, columns in wanted.items()
        if first not in indexed
    ]


def _identity(table: str, sequence: str) -> list[str]:
    """Convert BIGSERIAL to an identity column, so that INSERT on the table suffices, also for
    gpuid."""
    return [
        f"ALTER TABLE {table} ALTER COLUMN id DROP DEFAULT",
        f"DROP SEQUENCE {sequence}",
        f"ALTER TABLE {table} ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY",
        f"SELECT setval(pg_get_serial_sequence({literal(table)}, 'id'),"  # noqa: S608 - quoted
        f" coalesce((SELECT max(id) FROM {table}), 0) + 1, false)",
    ]


def _views(schema: str, table: str, views: Views, *, new: bool) -> list[str]:
    """The SQL for gpu_current and gpu_sightings; `schema` and `table` are quoted."""
    statements = []
    if not views.taken:
        if not views.is_maintained:
            statements += current.maintain(schema, table, views, empty=new)
        elif not views.has_current:
            statements.append(current.view(schema))
    if not views.has_sightings:
        statements.append(
            f"CREATE OR REPLACE VIEW {schema}.gpu_sightings AS\n"
            f"{_SIGHTINGS.format(table=table).strip()}"
        )
    return statements


_SIGHTINGS: Final = """
SELECT uuid, gpu, cluster, node, machine, min(read_time) AS "from", max(read_time) AS "to",
       (array_agg(event ORDER BY read_time DESC, id DESC))[1] AS last_event
FROM {table}
WHERE uuid IS NOT NULL OR gpu NOT IN ('na', 'N/A')
GROUP BY uuid, gpu, cluster, node, machine
"""
