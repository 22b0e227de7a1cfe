"""The table of the postgres sink and its views: inspection, and the SQL of migrations.

The table of gpuid has the columns GPUID_COLUMNS and a UNIQUE constraint on its seven fields, which
drops the second of two GPUs that share a serial. The sink also needs the columns OWN_COLUMNS, and a
UNIQUE constraint on record_id instead. gpuid can still write to the table: it leaves record_id
null.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from gpuid_operator.sinks.base import Refused

OWN_COLUMNS: Final = ("record_id", "event", "uuid", "pci", "product", "driver")
_SEVEN: Final = ("cluster", "node", "machine", "source", "chassis", "gpu", "read_time")
GPUID_COLUMNS: Final = ("id", *_SEVEN, "created_at")

WRITTEN_COLUMNS: Final = (*_SEVEN, *OWN_COLUMNS)
"""Columns of a record, in the order in which the sink writes them."""

CREATE_BATCH: Final = (
    "CREATE TEMPORARY TABLE gpuid_batch (position BIGINT, read_time TIMESTAMPTZ, "
    + ", ".join(f"{name} TEXT" for name in WRITTEN_COLUMNS if name != "read_time")
    + ") ON COMMIT DROP"
)

TABLE_QUERY: Final = """
SELECT c.oid, c.relkind IN ('r', 'p') AS is_table, n.nspname::text AS schema,
       array(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS columns,
       (SELECT pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), 'id')
        FROM pg_attribute WHERE attrelid = c.oid AND attname = 'id'
         AND attidentity = '' AND atthasdef AND attnotnull) AS serial_sequence,
       EXISTS (SELECT FROM pg_attribute
               WHERE attrelid = to_regclass(format('%I.gpu_current', n.nspname))
                 AND attname = 'quarantined') AS has_current,
       to_regclass(format('%I.gpu_sightings', n.nspname)) IS NOT NULL AS has_sightings
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass({table})
"""

SCHEMA_QUERY: Final = "SELECT current_schema()::text AS schema"

UNIQUES_QUERY: Final = """
SELECT i.relname::text AS index, con.conname::text AS constraint,
       x.indisvalid AND x.indimmediate AS usable,
       pg_get_expr(x.indpred, x.indrelid) AS predicate,
       array(SELECT coalesce(a.attname::text, '')
             FROM unnest(x.indkey) WITH ORDINALITY AS k (number, position)
             LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
             WHERE k.position <= x.indnkeyatts
             ORDER BY k.position) AS columns
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
LEFT JOIN pg_constraint con ON con.conindid = x.indexrelid AND con.contype IN ('p', 'u')
WHERE x.indrelid = {oid} AND x.indisunique
"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A row of TABLE_QUERY."""

    oid: int
    is_table: bool
    schema: str
    columns: frozenset[str]
    serial_sequence: str | None
    """The sequence of a BIGSERIAL id, for which a writer needs a separate permission."""
    has_current: bool
    has_sightings: bool


@dataclass(frozen=True, kw_only=True)
class CurrentSchema:
    """The row of SCHEMA_QUERY; none if the search path is empty."""

    schema: str | None


@dataclass(frozen=True, kw_only=True)
class Unique:
    """A unique index of the table; `columns` has an empty name for an expression."""

    index: str
    constraint: str | None
    columns: tuple[str, ...]
    predicate: str | None
    usable: bool

    @property
    def swallows(self) -> bool:
        """Whether it drops one of two records that do not differ in gpuid's seven fields."""
        return set(self.columns) <= set(_SEVEN)

    @property
    def keeps_ids_apart(self) -> bool:
        """Whether ON CONFLICT can rely on it for record_id."""
        whole = self.predicate in (None, "(record_id IS NOT NULL)")
        return self.columns == ("record_id",) and whole and self.usable


@dataclass(frozen=True, kw_only=True)
class TableState:
    """The table according to the catalog of the database."""

    columns: frozenset[str]
    uniques: tuple[Unique, ...]
    serial_sequence: str | None
    """The sequence of a BIGSERIAL id, for which a writer needs a separate permission."""
    views: frozenset[str] = frozenset()


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
        return "".join(f"{statement};\n" for statement in self.statements)


def split_name(table: str) -> tuple[str | None, str]:
    """Schema (None for that of the search path) and name. Raises Refused for anything else."""
    parts = table.split(".")
    if len(parts) > 2 or "" in parts:
        raise Refused(f"invalid table {table}: use name or schema.name")
    return (parts[0] if len(parts) == 2 else None), parts[-1]


def quoted(*names: str | None) -> str:
    """The names as one quoted, qualified identifier; None is omitted."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names if name is not None)


def literal(text: str) -> str:
    """The text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def insert_statement(table: str) -> str:
    """The SQL that moves the batch into the quoted table. ON CONFLICT without a target needs only
    the INSERT permission (with a target, PostgreSQL requires SELECT on its column)."""
    columns = ", ".join(WRITTEN_COLUMNS)
    return (
        f"INSERT INTO {table} ({columns}, created_at)"  # noqa: S608 - quoted by the caller
        f" SELECT {columns}, now() FROM pg_temp.gpuid_batch ORDER BY position"
        " ON CONFLICT DO NOTHING"
    )


def plan_migration(state: TableState | None, *, schema: str | None, name: str) -> Migration:
    """The migration for a table in this state; `state` is None if the table does not exist.

    Raises Refused for a table that is not a gpuid table.
    """
    table = quoted(schema, name)
    if state is None:
        return Migration(
            problems=[f"table {table} does not exist"],
            required=[_create(table)],
            useful=[*_indexes(table), *_views(schema, table, frozenset())],
        )
    foreign = [c for c in GPUID_COLUMNS if c not in state.columns and c != "chassis"]
    if foreign:
        raise Refused(
            f"table {table} has no column {', '.join(foreign)}, so it is not a gpuid table:"
            " use another table"
        )
    problems, required, useful = [], [], []
    missing = [name for name in ("chassis", *OWN_COLUMNS) if name not in state.columns]
    if missing:
        problems.append(f"table {table} has no column {', '.join(missing)}")
        added = ", ".join(f"ADD COLUMN {name} {_type(name)}" for name in missing)
        required.append(f"ALTER TABLE {table} {added}")
    for unique in state.uniques:
        if unique.swallows:
            problems.append(
                f"UNIQUE ({', '.join(unique.columns)}) of table {table} drops GPUs that share"
                " a serial"
            )
            required.append(_drop(unique, schema=schema, table=table))
    if not any(unique.keeps_ids_apart for unique in state.uniques):
        if not missing:
            problems.append(f"table {table} has no UNIQUE on record_id")
        required.append(f"ALTER TABLE {table} ADD UNIQUE (record_id)")
    if state.serial_sequence:
        useful += _identity(table, state.serial_sequence)
    if "uuid" in missing:
        useful += _indexes(table)
    useful += _views(schema, table, state.views)
    return Migration(problems=problems, required=required, useful=useful)


def _type(column: str) -> str:
    return "TEXT NOT NULL DEFAULT 'unknown'" if column == "chassis" else "TEXT"


def _create(table: str) -> str:
    texts = [c for c in _SEVEN if c not in ("chassis", "read_time")]
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


def _indexes(table: str) -> list[str]:
    return [f"CREATE INDEX ON {table} ({columns})" for columns in ("uuid, read_time", "gpu")]


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


def _views(schema: str | None, table: str, there: frozenset[str]) -> list[str]:
    bodies = {"gpu_current": _CURRENT, "gpu_sightings": _SIGHTINGS}
    return [
        f"CREATE OR REPLACE VIEW {quoted(schema, name)} AS\n{body.format(table=table).strip()}"
        for name, body in bodies.items()
        if name not in there
    ]


# A GPU that moves is added on its new node before it is removed from its old node. So the current
# node is that of the newest record that is not a removal; select the newest record there.
# A quarantined GPU has more quarantines than releases since it was added to the node: a GPU that
# leaves takes its quarantines along, without a release.
_CURRENT: Final = """
WITH host AS (
  SELECT DISTINCT ON (uuid) uuid, cluster, node FROM {table}
  WHERE uuid IS NOT NULL AND event IS DISTINCT FROM 'GPURemoved'
  ORDER BY uuid, read_time DESC, id DESC)
SELECT DISTINCT ON (r.uuid) r.uuid, r.gpu, r.chassis, r.cluster, r.node, r.machine, r.pci,
       r.product, r.driver, r.event, r.event IS DISTINCT FROM 'GPURemoved' AS present,
       r.read_time, r.source, r.record_id,
       r.event IS DISTINCT FROM 'GPURemoved' AND coalesce(q.quarantined, false) AS quarantined
FROM {table} r LEFT JOIN host h ON h.uuid = r.uuid
LEFT JOIN LATERAL (
  SELECT count(*) FILTER (WHERE event = 'GPUQuarantined')
         > count(*) FILTER (WHERE event = 'GPUReleased') AS quarantined
  FROM {table} e
  WHERE e.uuid = h.uuid AND e.cluster = h.cluster AND e.node = h.node
    AND (e.read_time, e.id) >= (
      SELECT a.read_time, a.id FROM {table} a
      WHERE a.uuid = h.uuid AND a.cluster = h.cluster AND a.node = h.node
        AND a.event = 'GPUAdded'
      ORDER BY a.read_time DESC, a.id DESC LIMIT 1)) q ON true
WHERE r.uuid IS NOT NULL
  AND (h.uuid IS NULL OR (r.cluster = h.cluster AND r.node = h.node))
ORDER BY r.uuid, r.read_time DESC, r.id DESC
"""

_SIGHTINGS: Final = """
SELECT uuid, gpu, cluster, node, machine, min(read_time) AS "from", max(read_time) AS "to",
       (array_agg(event ORDER BY read_time DESC, id DESC))[1] AS last_event
FROM {table}
WHERE uuid IS NOT NULL OR gpu NOT IN ('na', 'N/A')
GROUP BY uuid, gpu, cluster, node, machine
"""
