"""Sinks of a policy on real servers, and whether what they got is what the histories hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import asyncpg

from gpuid_operator.api.inventory import HistoryEntry
from gpuid_operator.api.values import format_time
from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.plan.records import records_for
from tests.support.object_servers import ObjectServer
from tests.support.operators import INVENTORIES, POLICIES
from tests.support.servers import Postgres

CLUSTER = "prod"
NAMESPACE = "gpuid"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
ENVIRONMENT: dict[str, Any] = {
    "CLUSTER_NAME": CLUSTER,
    "POD_NAMESPACE": NAMESPACE,
    "EXPORTER_TYPE": "stdout",
}
BATCH = {"maxWait": "50ms"}
GPUID_FIELDS = ("cluster", "node", "machine", "source", "chassis", "gpu")
# Columns of the table, and the field of a record that each holds.
COLUMNS = {
    "record_id": "id",
    **dict(zip(GPUID_FIELDS, GPUID_FIELDS, strict=True)),
    **{name: name for name in ("event", "uuid", "pci", "product", "driver")},
    "read_time": "time",
}


def policy(
    fleet: LocalCluster, name: str, sinks: list[dict[str, Any]], **spec: Any
) -> dict[str, Any]:
    """Create a policy with these sinks, or give them to it."""
    body = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {"name": name},
        "spec": {"sinks": sinks} | spec,
    }
    made = fleet.client.send(Request("POST", POLICIES, body, tolerate=(409,)))
    if made is None:
        path = f"{POLICIES}/{name}"
        made = fleet.client.send(Request("PATCH", path, {"spec": body["spec"]}, content_type=MERGE))
    return dict(made)


def secret(
    fleet: LocalCluster,
    name: str,
    *,
    hosts: str | None = None,
    for_sinks: bool = True,
    **values: str,
) -> None:
    """Create a Secret in the operator's namespace, or give it these values."""
    prefix = "gpuid.github.com"
    body = {
        "metadata": {
            "name": name,
            "labels": {f"{prefix}/sink": "true"} if for_sinks else {},
            "annotations": {f"{prefix}/allowed-hosts": hosts} if hosts else {},
        },
        "stringData": values,
    }
    if fleet.client.send(Request("POST", SECRETS, body, tolerate=(409,))) is None:
        fleet.client.send(Request("PATCH", f"{SECRETS}/{name}", body, content_type=MERGE))


class Database:
    """A database of its own, by a superuser."""

    def __init__(self, server: Postgres, name: str) -> None:
        self.server = server
        self.name = name
        self._run(f'CREATE DATABASE "{name}" TEMPLATE template0', database="postgres")

    def query(self, statement: str) -> list[dict[str, Any]]:
        """The rows of one statement."""
        return self._run(statement, database=self.name)

    def execute(self, statements: str) -> None:
        """Run several statements, as psql does."""

        async def run() -> None:
            connection = await self._connect(self.name)
            try:
                await connection.execute(statements)
            finally:
                await connection.close()

        asyncio.run(run())

    def copy_as_gpuid(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        """What gpuid does with its rows, each the seven fields and the time of the write."""
        fields = (*GPUID_FIELDS, "read_time", "created_at")

        async def copy() -> None:
            connection = await self._connect(self.name)
            await connection.copy_records_to_table(table, columns=fields, records=rows)
            await connection.close()

        asyncio.run(copy())

    def sink(self, name: str = "warehouse", *, port: int | None = None, **fields: Any) -> Any:
        """A sink of the superuser's, or of whose credentials the Secret `warehouse` holds."""
        return {
            "name": name,
            "batch": BATCH,
            "postgres": {
                "host": "127.0.0.1",
                "port": port or self.server.port,
                "database": self.name,
                "userSecretRef": {"name": "warehouse", "key": "user"},
                "passwordSecretRef": {"name": "warehouse", "key": "password"},
                "autoMigrate": True,
            }
            | fields,
        }

    def exists(self, table: str = "serials") -> bool:
        return bool(self.query(f"SELECT 1 FROM pg_tables WHERE tablename = '{table}'"))

    def records(self, table: str = "serials") -> list[dict[str, Any]]:
        """The rows in the order of their ids, as records; none where there is no table."""
        if not self.exists(table):
            return []
        rows = self.query(f"SELECT {', '.join(COLUMNS)} FROM {table} ORDER BY id")
        return [
            {
                field: format_time(row[column]) if column == "read_time" else row[column]
                for column, field in COLUMNS.items()
            }
            for row in rows
        ]

    async def _connect(self, database: str) -> Any:
        return await asyncpg.connect(
            host="127.0.0.1",
            port=self.server.port,
            user=self.server.user,
            password=self.server.password,
            database=database,
        )

    def _run(self, statement: str, *, database: str) -> list[dict[str, Any]]:
        async def run() -> list[dict[str, Any]]:
            connection = await self._connect(database)
            try:
                return [dict(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return asyncio.run(run())


class Bucket:
    """A bucket of its own at an object store."""

    def __init__(self, server: ObjectServer, name: str) -> None:
        self.server = server
        self.name = name
        server.create(name)

    def sink(self, *, port: int | None = None, **fields: Any) -> Any:
        """A sink with the credentials of its Secret. Both have the name of its type."""
        own = {key: fields.pop(key) for key in ("name", "records", "batch") if key in fields}
        return {
            "name": self.server.type,
            "batch": BATCH,
            **own,
            self.server.type: {
                **self.server.settings(self.name),
                "endpoint": f"http://127.0.0.1:{port}" if port else self.server.url,
                "insecure": True,
                "credentialsSecretRef": {"name": self.server.type},
                "format": "jsonl",
            }
            | fields,
        }

    def credentials(self, fleet: LocalCluster) -> None:
        """The Secret of the sink."""
        values: dict[str, Any] = self.server.credentials
        secret(fleet, self.server.type, hosts="127.0.0.1", **values)

    @property
    def objects(self) -> dict[str, bytes]:
        return self.server.objects(self.name)

    def records(self) -> list[dict[str, Any]]:
        """The lines of all objects of JSON lines."""
        return [json.loads(line) for text in self.objects.values() for line in text.splitlines()]


def warehouse_credentials(fleet: LocalCluster, database: Database) -> None:
    """The Secret `warehouse`."""
    secret(fleet, "warehouse", user=database.server.user, password=database.server.password)


def shape(records: dict[str, dict[str, Any]]) -> list[str]:
    """The fields of a record."""
    return list(next(iter(records.values()), {}))


def written(fleet: LocalCluster, *, sightings: bool = False) -> dict[str, dict[str, Any]]:
    """The records that the histories of all inventories give, by id, in their order."""
    return {
        record["id"]: record
        for item in fleet.client.get(INVENTORIES)["items"]
        for record in of_inventory(item, sightings=sightings)
    }


def of_inventory(item: dict[str, Any], *, sightings: bool = False) -> list[dict[str, Any]]:
    """The records that the history of an inventory gives."""
    return [
        record.to_json()
        for entry in item.get("status", {}).get("history", ())
        for record in records_for(
            HistoryEntry.model_validate(entry),
            sightings=sightings,
            inventory_uid=item["metadata"]["uid"],
            node=item["metadata"]["name"],
            cluster=CLUSTER,
        )
    ]


def booked(records: Iterable[dict[str, Any]], *, ordered: bool = True) -> dict[str, dict[str, Any]]:
    """Records by id, in the order in which they first came; the same id has the same content, and
    those of an inventory come in the order of its history, if the sink has an order."""
    found: dict[str, dict[str, Any]] = {}
    last: dict[str, int] = {}
    for record in records:
        identity = record["id"]
        if ordered and identity not in found:
            uid, sequence = identity.split(".")[:2]
            assert int(sequence) >= last.get(uid, 0), f"{identity} came after {last[uid]}"
            last[uid] = int(sequence)
        assert found.setdefault(identity, record) == record
    return found
