"""A database of one test of the postgres sink, with the tables that sinks find there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gpuid_operator.api.sinks import Sink
from gpuid_operator.sinks.http_client import HTTPClient
from gpuid_operator.sinks.opening import SinkContext
from gpuid_operator.sinks.registry import open_sink

TIME = datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC)
REFERENCES = {
    "userSecretRef": {"name": "pg", "key": "user"},
    "passwordSecretRef": {"name": "pg", "key": "password"},
}
GPUID_FIELDS = ["cluster", "node", "machine", "source", "chassis", "gpu"]
GPUID_COLUMNS = [*GPUID_FIELDS, "read_time", "created_at"]
# What gpuid creates: https://github.com/mchmarny/gpuid, POSTGRES_AUTO_MIGRATE.
GPUID_TABLE = """
CREATE TABLE {0} (
  id BIGSERIAL PRIMARY KEY,
  cluster VARCHAR(255) NOT NULL, node VARCHAR(255) NOT NULL, machine VARCHAR(255) NOT NULL,
  source VARCHAR(255) NOT NULL, {1} gpu VARCHAR(255) NOT NULL,
  read_time TIMESTAMP WITH TIME ZONE NOT NULL,
  created_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
  UNIQUE (cluster, node, machine, source, {2} gpu, read_time));
CREATE INDEX idx_{0}_cluster ON {0} (cluster);
CREATE INDEX idx_{0}_created_at ON {0} (created_at);
"""


class Database:
    """A database of one test, and a superuser's connection to it."""

    def __init__(self, server: Any, connection: Any, name: str, make_secrets: Any) -> None:
        self.server = server
        self.connection = connection
        self.name = name
        self.secrets = make_secrets(user=server.user, password=server.password)

    def sink(self, secrets: Any = None, **fields: Any) -> Any:
        spec = {
            "host": "127.0.0.1",
            "port": self.server.port,
            "database": self.name,
            **REFERENCES,
            **fields,
        }
        return open_sink(
            Sink.model_validate({"name": "warehouse", "postgres": spec}),
            secrets=secrets or self.secrets,
            context=SinkContext(http=HTTPClient(), write_records=lambda _records: None),
        )

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self.connection.fetch(query)]

    async def gpuid_table(self, table: str = "serials", *, chassis: bool = True) -> None:
        column, key = ("chassis VARCHAR(255) NOT NULL,", "chassis,") if chassis else ("", "")
        await self.connection.execute(GPUID_TABLE.format(table, column, key))

    async def copy_as_gpuid(self, *serials: str, table: str = "serials") -> None:
        await self.connection.copy_records_to_table(
            table,
            columns=GPUID_COLUMNS,
            records=[
                ("prod", "gpu-1", "i-1", "ns/pod", "unknown", serial, TIME, TIME)
                for serial in serials
            ],
        )


async def create_writer(database: Database, make_secrets: Any, *tables: str) -> Any:
    """Secrets of a role that may insert into these tables, and create temporary ones."""
    role = f"writer_{database.name}"
    await database.connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'writer'")
    await database.connection.execute(f"REVOKE ALL ON SCHEMA public FROM {role}")
    for table in tables:
        await database.connection.execute(f"GRANT INSERT ON {table} TO {role}")
    return make_secrets(user=role, password="writer")
