"""gpu_current: a table with one row per GPU, which a trigger keeps, and a view of it.

The view answers by serial, UUID, node and chassis without the history: its rows are in
`gpu_current_state`, which changes in the statement that inserts records. The trigger works for
every writer, and as the owner of the table, so that INSERT on the table remains the only right of
a writer. Rows of the history that are deleted later leave the state as it is.

A GPU that moves is added on its new node before it is removed from its old node. So the current
node is that of the newest record that is not a removal (`placed`), and the view shows the newest
record there. A quarantined GPU has more quarantines than releases since it was added to the node:
a GPU that leaves takes its quarantines along, without a release. Records count by their time, then
by their id, in whichever order they arrive.
"""

from __future__ import annotations

from typing import Final

from gpuid_operator.sinks.postgres_catalog import Views

_RECORD: Final = (
    *("gpu", "chassis", "cluster", "node", "machine", "pci", "product", "driver", "event"),
    *("read_time", "source", "record_id", "id"),
)
_ALL: Final = ", ".join(_RECORD)
# Events after which one look at the newest record does not suffice.
_SPECIAL: Final = "'GPUAdded', 'GPURemoved', 'GPUQuarantined', 'GPUReleased'"


def _columns(alias: str) -> str:
    return ", ".join(f"{alias}.{column}" for column in _RECORD)


def view(schema: str) -> str:
    """The SQL of the view; `schema` is quoted."""
    return f"""CREATE OR REPLACE VIEW {schema}.gpu_current AS
SELECT uuid, gpu, chassis, cluster, node, machine, pci, product, driver, event,
       event IS DISTINCT FROM 'GPURemoved' AS present, read_time, source, record_id,
       event IS DISTINCT FROM 'GPURemoved' AND quarantines > 0 AS quarantined
FROM {schema}.gpu_current_state"""  # noqa: S608 - quoted by the caller


def maintain(schema: str, table: str, views: Views, *, empty: bool) -> list[str]:
    """The SQL that creates what is missing of the state of the quoted table and its trigger; in one
    transaction. The trigger locks the table against writers until the end of the transaction.

    A state that an enabled trigger has kept is complete, even if its function is for another table
    by now: the function fails, and with it the statement that inserts.
    """
    state = f"{schema}.gpu_current_state"
    update = f"{schema}.gpu_current_update"
    complete = views.has_state and views.is_enabled
    statements = []
    if not views.has_state:
        statements += _create(state, table)
    elif not complete:
        statements.append(f"TRUNCATE {state}")
    statements += [
        f"CREATE INDEX IF NOT EXISTS gpu_current_events ON {table} (uuid, read_time)"
        " WHERE event IN ('GPUAdded', 'GPUQuarantined', 'GPUReleased')",
        _function(update, state=state, table=table),
        f"REVOKE ALL ON FUNCTION {update}() FROM PUBLIC",
    ]
    if views.has_trigger:
        statements.append(f"DROP TRIGGER gpu_current_update ON {table}")
    statements.append(_TRIGGER.format(table=table, update=update))
    if not (complete or empty):
        statements += [
            f"CREATE TEMPORARY TABLE gpuid_fill ON COMMIT DROP AS SELECT uuid, {_ALL}"  # noqa: S608
            f" FROM {table} WITH NO DATA",
            _TRIGGER.format(table="gpuid_fill", update=update),
            _FILL.format(table=table),
        ]
    return [*statements, view(schema)]


def _create(state: str, table: str) -> list[str]:
    return [
        # The columns have the types of the table, of which gpuid's are VARCHAR(255).
        f"CREATE TABLE {state} AS SELECT uuid, {_ALL}, read_time AS placed_time,"  # noqa: S608
        " id AS placed_id, read_time AS added_time, id AS added_id, id AS quarantines"
        f" FROM {table} WITH NO DATA",
        f"CREATE UNIQUE INDEX ON {state} (uuid)",
        *(f"CREATE INDEX ON {state} ({column})" for column in ("gpu", "node", "chassis")),
        f"CREATE INDEX ON {state} (uuid) WHERE quarantines > 0",
        f"ALTER TABLE {state} ALTER quarantines SET DEFAULT 0, SET (fillfactor = 70)",
    ]


_TRIGGER: Final = """CREATE TRIGGER gpu_current_update AFTER INSERT ON {table}
REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION {update}()"""

# Has the function read the history of every GPU, since it gets each more than once. The UUIDs come
# from an index in which each is looked up, not from a scan of the whole table.
_FILL: Final = """INSERT INTO gpuid_fill (uuid)
WITH RECURSIVE gpus AS (
  SELECT min(uuid) AS uuid FROM {table}
  UNION ALL
  SELECT (SELECT min(t.uuid) FROM {table} t WHERE t.uuid > g.uuid) FROM gpus g
  WHERE g.uuid IS NOT NULL)
SELECT uuid FROM gpus, generate_series(1, 2) WHERE uuid IS NOT NULL"""


def _function(name: str, *, state: str, table: str) -> str:
    recompute = _recompute(state=state, table=table)
    return f"""CREATE OR REPLACE FUNCTION {name}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $gpuid$
DECLARE
  records BIGINT;
  settled BIGINT;
BEGIN
  SELECT count(uuid) INTO records FROM inserted;
  IF records = 0 THEN
    RETURN NULL;
  END IF;
  -- Locks the rows of all GPUs, in one order, so that writers wait for each other without a
  -- deadlock. This settles a GPU that is new or stays where it is, if it has one record.
  INSERT INTO {state} AS s (uuid, {_ALL}, placed_time, placed_id, added_time, added_id)
  SELECT DISTINCT ON (uuid) uuid, {_ALL},
         CASE WHEN event IS DISTINCT FROM 'GPURemoved' THEN read_time END,
         CASE WHEN event IS DISTINCT FROM 'GPURemoved' THEN id END,
         CASE event WHEN 'GPUAdded' THEN read_time END, CASE event WHEN 'GPUAdded' THEN id END
  FROM inserted WHERE uuid IS NOT NULL ORDER BY uuid, read_time DESC, id DESC
  ON CONFLICT (uuid) DO UPDATE
  SET ({_ALL}, placed_time, placed_id) =
      ROW({_columns("excluded")}, excluded.placed_time, excluded.placed_id)
  WHERE s.cluster = excluded.cluster AND s.node = excluded.node
    AND (s.read_time, s.id) < (excluded.read_time, excluded.id)
    AND coalesce(excluded.event, '') NOT IN ({_SPECIAL});
  GET DIAGNOSTICS settled = ROW_COUNT;
  IF settled = records THEN
    RETURN NULL;
  END IF;
  -- Quarantines and releases at the current node; another node has them counted below.
  UPDATE {state} s SET quarantines = s.quarantines + d.quarantines
  FROM (
    SELECT i.uuid, sum(CASE i.event WHEN 'GPUQuarantined' THEN 1 ELSE -1 END) AS quarantines
    FROM inserted i JOIN {state} o ON o.uuid = i.uuid AND o.cluster = i.cluster
     AND o.node = i.node AND (i.read_time, i.id) > (o.added_time, o.added_id)
    WHERE i.event IN ('GPUQuarantined', 'GPUReleased') GROUP BY i.uuid) d
  WHERE s.uuid = d.uuid;
  {recompute};
  RETURN NULL;
END $gpuid$"""  # noqa: S608


def _recompute(*, state: str, table: str) -> str:
    """The SQL that brings the rows of the GPUs that are not settled up to the records of the table.

    It reads only records that are newer than what the row of a GPU stands for."""
    return f"""UPDATE {state} s
  SET ({_ALL}, placed_time, placed_id, added_time, added_id, quarantines) =
      ROW({_columns("n")}, n.placed_time, n.placed_id, n.added_time, n.added_id, n.quarantines)
  FROM (
    SELECT o.uuid, {_columns("c")}, p.placed_time, p.placed_id,
           CASE WHEN k.recounted THEN a.read_time ELSE o.added_time END AS added_time,
           CASE WHEN k.recounted THEN a.id ELSE o.added_id END AS added_id,
           CASE WHEN NOT k.recounted THEN o.quarantines WHEN a.id IS NULL THEN 0 ELSE (
             SELECT count(*) FILTER (WHERE q.event = 'GPUQuarantined')
                  - count(*) FILTER (WHERE q.event = 'GPUReleased')
             FROM {table} q
             WHERE q.event IN ('GPUQuarantined', 'GPUReleased') AND q.uuid = o.uuid
               AND q.cluster = p.cluster AND q.node = p.node
               AND (q.read_time, q.id) > (a.read_time, a.id)) END AS quarantines
    FROM (
      SELECT uuid, count(*) AS records, max(read_time) AS read_time, max(id) AS id
      FROM inserted WHERE uuid IS NOT NULL GROUP BY uuid) i
    JOIN {state} o ON o.uuid = i.uuid
     AND (i.records > 1 OR (i.read_time, i.id) <> (o.read_time, o.id))
    LEFT JOIN LATERAL (
      SELECT r.cluster, r.node, r.read_time, r.id FROM {table} r
      WHERE r.uuid = o.uuid AND r.event IS DISTINCT FROM 'GPURemoved'
        AND (r.read_time, r.id)
         >= (coalesce(o.placed_time, '-infinity'), coalesce(o.placed_id, 0))
      ORDER BY r.read_time DESC, r.id DESC LIMIT 1) h ON true
    CROSS JOIN LATERAL (
      SELECT h.id IS NOT NULL
         AND (h.cluster, h.node) IS DISTINCT FROM (o.cluster, o.node) AS moved,
             h.id IS NOT NULL OR o.placed_id IS NOT NULL AS known) m
    CROSS JOIN LATERAL (
      SELECT coalesce(h.read_time, o.placed_time) AS placed_time,
             coalesce(h.id, o.placed_id) AS placed_id,
             CASE WHEN m.moved THEN h.cluster WHEN m.known THEN o.cluster END AS cluster,
             CASE WHEN m.moved THEN h.node WHEN m.known THEN o.node END AS node) p
    CROSS JOIN LATERAL (
      (SELECT {_columns("r")} FROM {table} r
       WHERE r.uuid = o.uuid
         AND (NOT m.known OR (r.cluster = p.cluster AND r.node = p.node))
         AND (r.read_time, r.id) >= (
           CASE WHEN m.moved THEN h.read_time ELSE coalesce(o.read_time, '-infinity') END,
           CASE WHEN m.moved THEN h.id ELSE coalesce(o.id, 0) END)
       ORDER BY r.read_time DESC, r.id DESC LIMIT 1)
      UNION ALL SELECT {_columns("o")} WHERE o.id IS NOT NULL AND NOT m.moved
      ORDER BY read_time DESC, id DESC LIMIT 1) c
    LEFT JOIN LATERAL (
      SELECT r.read_time, r.id FROM {table} r
      WHERE (m.moved OR o.uuid IN (SELECT uuid FROM inserted WHERE event = 'GPUAdded'))
        AND r.uuid = o.uuid AND r.cluster = p.cluster AND r.node = p.node
        AND r.event = 'GPUAdded'
        AND (m.moved OR (r.read_time, r.id)
         >= (coalesce(o.added_time, '-infinity'), coalesce(o.added_id, 0)))
      ORDER BY r.read_time DESC, r.id DESC LIMIT 1) a ON true
    CROSS JOIN LATERAL (SELECT m.moved OR a.id IS NOT NULL AS recounted) k
  ) n
  WHERE s.uuid = n.uuid"""  # noqa: S608
