"""What the catalog of the database says of the table of the postgres sink: queries and their rows.

The queries take names as literals, by `literal` and `quoted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SEVEN: Final = ("cluster", "node", "machine", "source", "chassis", "gpu", "read_time")
"""The fields of gpuid, over which its table has a UNIQUE constraint."""

TABLE_QUERY: Final = """
SELECT c.oid, c.relkind IN ('r', 'p') AS is_table, n.nspname::text AS schema,
       array(SELECT attname::text FROM pg_attribute
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS columns,
       array(SELECT coalesce(a.attname::text, '') FROM pg_partitioned_table p
             CROSS JOIN unnest(p.partattrs::int[]) AS k (number)
             LEFT JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = k.number
             WHERE p.partrelid = c.oid) AS partitioned_by,
       array(SELECT a.attname::text FROM pg_index x
             JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = x.indkey[0]
             WHERE x.indrelid = c.oid AND x.indisvalid AND x.indpred IS NULL) AS indexed,
       (SELECT pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), 'id')
        FROM pg_attribute WHERE attrelid = c.oid AND attname = 'id'
         AND attidentity = '' AND atthasdef AND attnotnull) AS serial_sequence
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = to_regclass({table})
"""

VIEWS_QUERY: Final = """
WITH n AS (SELECT {schema}::text AS name),
read AS (  -- what the view reads
  SELECT c.oid, c.relname FROM n
  JOIN pg_rewrite w ON w.ev_class = to_regclass(format('%I.gpu_current', n.name))
  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
  JOIN pg_class c ON d.refclassid = 'pg_class'::regclass AND c.oid = d.refobjid
  WHERE c.relkind IN ('r', 'p')),
own AS (  -- the trigger of the table
  SELECT g.tgenabled IN ('O', 'A') AS enabled,
         f.pronamespace = to_regnamespace(quote_ident(n.name))
         AND strpos(f.prosrc, {table}) > 0 AS for_table
  FROM n CROSS JOIN pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid
  WHERE g.tgname = 'gpu_current_update' AND g.tgrelid = to_regclass({table}))
SELECT EXISTS (SELECT FROM read WHERE relname = 'gpu_current_state') AS has_current,
       to_regclass(format('%I.gpu_current_state', n.name)) IS NOT NULL AS has_state,
       to_regclass(format('%I.gpu_sightings', n.name)) IS NOT NULL AS has_sightings,
       EXISTS (SELECT FROM own) AS has_trigger,
       EXISTS (SELECT FROM own WHERE enabled) AS is_enabled,
       EXISTS (SELECT FROM own WHERE for_table) AS is_for_table,
       NOT EXISTS (SELECT FROM own) AND (
       EXISTS (SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
               WHERE t.tgname = 'gpu_current_update' AND NOT c.relispartition
                AND c.relnamespace = to_regnamespace(quote_ident(n.name))
                AND c.oid IS DISTINCT FROM to_regclass({table}))
       OR EXISTS (SELECT FROM read
                  WHERE relname <> 'gpu_current_state'
                   AND oid IS DISTINCT FROM to_regclass({table}))) AS taken
FROM n
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
WHERE x.indrelid = to_regclass({table}) AND x.indisunique
"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A row of TABLE_QUERY."""

    oid: int
    is_table: bool
    schema: str
    columns: frozenset[str]
    partitioned_by: frozenset[str]
    """Columns of the partition key, with an empty name for an expression."""
    indexed: frozenset[str]
    """Columns with which an index begins."""
    serial_sequence: str | None
    """The sequence of a BIGSERIAL id, for which a writer needs a separate permission."""


@dataclass(frozen=True, kw_only=True)
class Views:
    """The row of VIEWS_QUERY: what there is of gpu_current and gpu_sightings in the schema."""

    has_current: bool
    has_state: bool
    has_sightings: bool
    has_trigger: bool
    is_enabled: bool
    """Whether the trigger is enabled."""
    is_for_table: bool
    """Whether the trigger's function names the table and its schema as they are now."""
    taken: bool
    """Whether gpu_current belongs to another table."""

    @property
    def is_maintained(self) -> bool:
        return self.has_state and self.is_enabled and self.is_for_table


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
        return set(self.columns) <= set(SEVEN)

    @property
    def keeps_ids_apart(self) -> bool:
        """Whether ON CONFLICT can rely on it for record_id."""
        whole = self.predicate in (None, "(record_id IS NOT NULL)")
        # The unique index of a partitioned table has the partition key in it. A record always has
        # the same time.
        columns = set(self.columns) - {"read_time"}
        return columns == {"record_id"} and whole and self.usable


def quoted(*names: str | None) -> str:
    """The names as one quoted, qualified identifier; None is omitted."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names if name is not None)


def literal(text: str) -> str:
    """The text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"
