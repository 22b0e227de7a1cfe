"""What the tests of sinks share: a source of secrets, and records to send."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from gpuid_operator.api.record import Record
from tests.support.postgres_database import Database
from tests.support.secret_source import Secrets


@dataclass
class Records:
    """Makes records; every one has an id of its own unless a field says otherwise."""

    count: int = 0
    defaults: dict[str, Any] = field(default_factory=dict)

    def __call__(self, **fields: Any) -> Record:
        self.count += 1
        values: dict[str, Any] = {
            "id": f"uid.{self.count}.1780828245",
            "event": "GPUAdded",
            "cluster": "prod",
            "node": "gpu-1",
            "machine": "i-1",
            "source": "gpu-operator/plugin-abc",
            "chassis": "1821325191344",
            "gpu": "1761025346025",
            "time": datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC),
            "uuid": f"GPU-{self.count}",
            "pci": "00000000:29:00.0",
            "product": "NVIDIA GB200",
            "driver": "570.148.08",
            "sequence": self.count,
        }
        return Record(**values | fields)


@pytest.fixture
def record() -> Records:
    return Records()


@pytest.fixture
def make_secrets() -> type[Secrets]:
    return Secrets


@pytest.fixture
async def database(
    postgres: Any, make_secrets: Any, request: pytest.FixtureRequest
) -> AsyncIterator[Database]:
    name = f"db{abs(hash(request.node.nodeid))}"
    login = {"user": postgres.user, "password": postgres.password, "port": postgres.port}
    admin = await asyncpg.connect(host="127.0.0.1", database="postgres", **login)
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    connection = await asyncpg.connect(host="127.0.0.1", database=name, **login)
    yield Database(postgres, connection, name, make_secrets)
    await connection.close()
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()
