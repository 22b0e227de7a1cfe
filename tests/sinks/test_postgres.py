"""The postgres sink against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from gpuid_operator.sinks import postgres
from gpuid_operator.sinks.base import (
    AddressNotAllowed,
    RecordsRefused,
    Refused,
    SinkError,
    Unavailable,
)
from gpuid_operator.sinks.postgres_wire import Allowance
from tests.support import golden
from tests.support.postgres_database import GPUID_COLUMNS, TIME, Database, create_writer


async def test_auto_migrate_creates_the_table_and_each_record_is_one_row(
    database: Database, record: Any
) -> None:
    sink = database.sink(autoMigrate=True)
    batch = [record(), record(gpu="na", uuid=None, event="DriverChanged")]
    await sink.send(batch)
    await sink.send(batch)
    await database.sink(autoMigrate=True).send([*batch, batch[0], record()])
    assert await database.rows("SELECT * FROM serials ORDER BY id LIMIT 1") == [
        (
            1,
            *("prod", "gpu-1", "i-1", "gpu-operator/plugin-abc", "1821325191344"),
            *("1761025346025", TIME),
            (await database.connection.fetchval("SELECT created_at FROM serials WHERE id = 1")),
            *("uid.1.1780828245", "GPUAdded", "GPU-1", "00000000:29:00.0"),
            *("NVIDIA GB200", "570.148.08"),
        )
    ]
    assert await database.rows("SELECT record_id FROM serials ORDER BY id") == [
        (f"uid.{n}.1780828245",) for n in (1, 2, 3)
    ]


async def test_the_row_of_an_entry(database: Database) -> None:
    """Written out by hand, as in tests/unit/test_golden_records.py."""
    await database.sink(autoMigrate=True).send(golden.records(golden.MOVED))
    columns = "cluster, node, machine, source, chassis, gpu, read_time, record_id, event, uuid, pci"
    assert await database.rows(f"SELECT {columns}, product, driver FROM serials") == [
        (
            "prod/eu",
            "gpu-node-01",
            "i-1234567890abcdef0",
            "gpu-operator/nvidia-device-plugin-abc",
            "1821325191344",
            "1761025346025",
            datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC),
            "8f14e45f-ceea-467f-a0e6-5d1f8b2f6c11.7.1780828245",
            "GPUMoved",
            "GPU-25e04bdf-1c2d-4e3f-8a9b-0c1d2e3f4a5b",
            "00000000:2A:00.0",
            "NVIDIA GB200",
            "570.148.08",
        )
    ]


async def test_gpuids_table_is_extended_and_keeps_its_rows(database: Database, record: Any) -> None:
    await database.gpuid_table()
    await database.copy_as_gpuid("s1", "s2")
    before = await database.rows(f"SELECT id, {', '.join(GPUID_COLUMNS)} FROM serials ORDER BY id")
    # The two GPUs of one GB200 board: nothing but uuid, PCI address and id differ.
    twins = [record(gpu="1761025346025"), record(gpu="1761025346025", pci="00000000:2A:00.0")]
    await database.sink(autoMigrate=True).send(twins)
    after = await database.rows(f"SELECT id, {', '.join(GPUID_COLUMNS)} FROM serials ORDER BY id")
    assert after[:2] == before
    assert len(after) == 4
    # gpuid goes on: the same COPY as ever, even the same reading twice.
    await database.copy_as_gpuid("s1", "s3")
    await database.sink(autoMigrate=True).send(twins)
    assert await database.rows("SELECT gpu, record_id FROM serials ORDER BY id") == [
        ("s1", None),
        ("s2", None),
        ("1761025346025", "uid.1.1780828245"),
        ("1761025346025", "uid.2.1780828245"),
        ("s1", None),
        ("s3", None),
    ]


async def test_an_older_table_of_gpuid_gets_a_chassis(database: Database, record: Any) -> None:
    await database.gpuid_table(chassis=False)
    await database.connection.execute(
        "INSERT INTO serials (cluster, node, machine, source, gpu, read_time)"
        " VALUES ('prod', 'n', 'm', 's', 'g', now())"
    )
    await database.sink(autoMigrate=True).send([record()])
    assert await database.rows("SELECT chassis FROM serials ORDER BY id") == [
        ("unknown",),
        ("1821325191344",),
    ]


@pytest.mark.parametrize("gpuid", [True, False])
async def test_insert_and_temporary_suffice(
    database: Database, record: Any, make_secrets: Any, gpuid: bool
) -> None:
    if gpuid:
        await database.gpuid_table()
    await database.sink(autoMigrate=True).send([record()])
    role = await create_writer(database, make_secrets, "serials")
    batch = [record(), record()]
    sink = database.sink(role)
    await sink.send(batch)
    await sink.send(batch)
    assert await database.rows("SELECT count(*) FROM serials") == [(3,)]


async def test_without_auto_migrate_the_sql_is_in_the_error(
    database: Database, record: Any, make_secrets: Any
) -> None:
    sink = database.sink()
    with pytest.raises(Refused, match=r'table "public"\."serials" does not exist') as caught:
        await sink.send([record()])
    assert 'CREATE OR REPLACE VIEW "public".gpu_current' in caught.value.detail
    await database.connection.execute(caught.value.detail)
    await sink.send([record()])
    role = await create_writer(database, make_secrets, "serials")
    await database.sink(role).send([record()])
    assert await database.rows("SELECT count(*) FROM gpu_current") == [(2,)]


async def test_without_auto_migrate_gpuids_unique_is_an_error_with_its_sql(
    database: Database, record: Any
) -> None:
    await database.gpuid_table()
    await database.copy_as_gpuid("s1")
    sink = database.sink()
    with pytest.raises(Refused, match="has no column record_id, event") as caught:
        await sink.send([record()])
    assert "drops GPUs that share a serial" in caught.value.message
    assert len(caught.value.message) <= 512
    await database.connection.execute(
        "ALTER TABLE serials ADD record_id TEXT UNIQUE, ADD event TEXT, ADD uuid TEXT,"
        " ADD pci TEXT, ADD product TEXT, ADD driver TEXT"
    )
    with pytest.raises(Refused, match=r"or run ALTER TABLE .* DROP CONSTRAINT") as caught:
        await sink.send([record()])
    await database.connection.execute(caught.value.message.partition("or run ")[2])
    await sink.send([record()])
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.connection.execute("UPDATE serials SET record_id = 'same'")


async def test_a_unique_index_is_replaced_like_a_constraint(
    database: Database, record: Any
) -> None:
    await database.sink(autoMigrate=True).send([record()])
    await database.connection.execute(
        "ALTER TABLE serials DROP CONSTRAINT serials_record_id_key;"
        "CREATE UNIQUE INDEX mine ON serials (gpu, read_time);"
        "CREATE UNIQUE INDEX part ON serials (record_id) WHERE record_id IS NOT NULL;"
    )
    with pytest.raises(Refused, match=r"UNIQUE \(gpu, read_time\)"):
        await database.sink().send([record()])
    batch = [record(), record()]
    await database.sink(autoMigrate=True).send(batch)
    await database.sink().send(batch)
    assert await database.rows("SELECT count(*) FROM serials") == [(3,)]


async def test_someone_elses_table_is_left_alone(database: Database, record: Any) -> None:
    await database.connection.execute("CREATE TABLE serials (id INT, node TEXT)")
    with pytest.raises(Refused, match="not a gpuid table"):
        await database.sink(autoMigrate=True).send([record()])
    await database.connection.execute("CREATE VIEW looks AS SELECT 1 AS id")
    with pytest.raises(Refused, match="is not a table"):
        await database.sink(autoMigrate=True, table="looks").send([record()])
    with pytest.raises(Refused, match=r"schema\.name"):
        await database.sink(autoMigrate=True, table="a.b.c").send([record()])


async def test_schemas_and_capitals_are_quoted(database: Database, record: Any) -> None:
    with pytest.raises(Refused, match='schema "Fleet" does not exist'):
        await database.sink(autoMigrate=True, table="Fleet.Serials").send([record()])
    await database.connection.execute('CREATE SCHEMA "Fleet"')
    await database.sink(autoMigrate=True, table="Fleet.Serials").send([record()])
    assert await database.rows('SELECT uuid FROM "Fleet".gpu_current') == [("GPU-2",)]


async def test_two_instances_migrate_at_once(database: Database, record: Any) -> None:
    await database.gpuid_table()
    batches = [[record()] for _ in range(4)]
    await asyncio.gather(*(database.sink(autoMigrate=True).send(batch) for batch in batches))
    assert await database.rows("SELECT count(*) FROM serials") == [(4,)]


async def test_gpu_current_tells_where_each_gpu_is(database: Database, record: Any) -> None:
    def at(seconds: int, node: str, uuid: str, event: str = "GPUAdded", **more: Any) -> Any:
        time = TIME + timedelta(seconds=seconds)
        return record(node=node, uuid=uuid, event=event, time=time, **more)

    await database.sink(autoMigrate=True).send(
        [
            at(0, "a", "GPU-stays"),
            at(5, "a", "GPU-stays", "HealthChanged"),
            # Seen at its new node before the old one is sure that it left.
            at(0, "a", "GPU-moved"),
            at(5, "b", "GPU-moved", cluster="other"),
            at(9, "a", "GPU-moved", "GPURemoved"),
            at(0, "a", "GPU-gone"),
            at(5, "b", "GPU-gone"),
            at(9, "b", "GPU-gone", "GPURemoved"),
            at(9, "c", "GPU-only-removed", "GPURemoved"),
            # In one second: the later of the two rules.
            at(0, "d", "GPU-same-second", "GPURemoved"),
            at(0, "d", "GPU-same-second"),
            at(0, "a", None, "DriverChanged", gpu="na"),  # type: ignore[arg-type]
        ]
    )
    rows = await database.rows(
        "SELECT uuid, cluster, node, event, present FROM gpu_current ORDER BY uuid"
    )
    assert rows == [
        ("GPU-gone", "prod", "b", "GPURemoved", False),
        ("GPU-moved", "other", "b", "GPUAdded", True),
        ("GPU-only-removed", "prod", "c", "GPURemoved", False),
        ("GPU-same-second", "prod", "d", "GPUAdded", True),
        ("GPU-stays", "prod", "a", "HealthChanged", True),
    ]


async def test_gpu_current_tells_which_gpus_are_quarantined(
    database: Database, record: Any
) -> None:
    def at(seconds: int, node: str, uuid: str, event: str = "GPUAdded", **more: Any) -> Any:
        time = TIME + timedelta(seconds=seconds)
        return record(node=node, uuid=uuid, event=event, time=time, **more)

    await database.sink(autoMigrate=True).send(
        [
            # In one second, as a first read writes them.
            at(0, "a", "GPU-condemned"),
            at(0, "a", "GPU-condemned", "GPUQuarantined", to="rma-1"),
            at(0, "a", "GPU-lifted"),
            at(1, "a", "GPU-lifted", "GPUQuarantined", to="rma-1"),
            at(2, "a", "GPU-lifted", "GPUReleased", from_="rma-1"),
            at(0, "a", "GPU-twice"),
            at(1, "a", "GPU-twice", "GPUQuarantined", to="rma-1"),
            at(1, "a", "GPU-twice", "GPUQuarantined", to="rma-2"),
            at(2, "a", "GPU-twice", "GPUReleased", from_="rma-1"),
            # A GPU that leaves takes its quarantine along; at its new node it is found again.
            at(0, "a", "GPU-moved"),
            at(1, "a", "GPU-moved", "GPUQuarantined", to="rma-1"),
            at(5, "b", "GPU-moved"),
            at(5, "b", "GPU-moved", "GPUQuarantined", to="rma-1"),
            at(6, "b", "GPU-moved", "GPUReleased", from_="rma-1"),
            at(9, "a", "GPU-moved", "GPURemoved"),
            at(0, "a", "GPU-left"),
            at(1, "a", "GPU-left", "GPUQuarantined", to="rma-1"),
            at(9, "a", "GPU-left", "GPURemoved"),
            at(0, "c", "GPU-back"),
            at(1, "c", "GPU-back", "GPUQuarantined", to="rma-1"),
            at(2, "c", "GPU-back", "GPURemoved"),
            at(3, "c", "GPU-back"),
            at(0, "a", "GPU-never"),
        ]
    )
    rows = await database.rows("SELECT uuid, quarantined FROM gpu_current ORDER BY uuid")
    assert dict(rows) == {
        "GPU-back": False,
        "GPU-condemned": True,
        "GPU-left": False,
        "GPU-lifted": False,
        "GPU-moved": False,
        "GPU-never": False,
        "GPU-twice": True,
    }


async def test_an_older_gpu_current_gets_its_new_column(database: Database, record: Any) -> None:
    await database.sink(autoMigrate=True).send([record(uuid="GPU-1", event="GPUAdded")])
    columns = (
        "uuid, gpu, chassis, cluster, node, machine, pci, product, driver, event, true AS present,"
        " read_time, source, record_id"
    )
    await database.connection.execute("DROP VIEW gpu_current")
    await database.connection.execute(f"CREATE VIEW gpu_current AS SELECT {columns} FROM serials")
    await database.sink(autoMigrate=True).send(
        [record(uuid="GPU-1", event="GPUQuarantined", to="rma-1")]
    )
    assert await database.rows("SELECT quarantined FROM gpu_current") == [(True,)]


async def test_gpu_sightings_tells_from_when_to_when(database: Database, record: Any) -> None:
    await database.gpuid_table()
    await database.copy_as_gpuid("s1", "N/A")
    later = TIME + timedelta(days=1)
    sighting = {"event": "Sighted", "uuid": None, "pci": None}
    await database.sink(autoMigrate=True).send(
        [
            record(gpu="s1", time=later, **sighting),
            record(gpu="s1", machine="i-2", time=later, **sighting),
            record(gpu="na", time=later, **sighting),
            record(gpu="s2"),
            record(gpu="s2", uuid="GPU-4", time=later, event="GPURemoved"),
        ]
    )
    rows = await database.rows(
        'SELECT gpu, uuid, cluster, node, machine, "from", "to", last_event FROM gpu_sightings'
        " ORDER BY gpu, machine"
    )
    assert rows == [
        ("s1", None, "prod", "gpu-1", "i-1", TIME, later, "Sighted"),
        ("s1", None, "prod", "gpu-1", "i-2", later, later, "Sighted"),
        ("s2", "GPU-4", "prod", "gpu-1", "i-1", TIME, later, "GPURemoved"),
    ]


async def test_a_changed_password_needs_no_restart(database: Database, record: Any) -> None:
    sink = database.sink(autoMigrate=True)
    await sink.send([record()])
    right = database.secrets.values["password"]
    database.secrets.values["password"] = "hidden-and-wrong"
    with pytest.raises(Refused, match="password authentication failed") as caught:
        await sink.send([record()])
    assert "hidden-and-wrong" not in caught.value.message
    assert database.secrets.invalidated == 1
    database.secrets.values["password"] = right
    await sink.send([record()])
    assert database.secrets.hosts == {"127.0.0.1"}


async def test_what_is_wrong_is_permanent_or_temporary(
    database: Database, record: Any, make_secrets: Any
) -> None:
    async def failure(sink: Any) -> SinkError:
        with pytest.raises(SinkError) as caught:
            await sink.send([record()])
        return caught.value

    error = await failure(database.sink(port=1))
    assert (type(error), "127.0.0.1:1" in error.message) == (Unavailable, True)
    error = await failure(database.sink(database="nowhere"))
    assert (type(error), '"nowhere" does not exist' in error.message) == (Refused, True)
    error = await failure(database.sink(userSecretRef=None))
    assert (type(error), "set userSecretRef" in error.message) == (Refused, True)
    assert type(await failure(database.sink(host="169.254.169.254"))) is AddressNotAllowed
    await database.gpuid_table()
    role = await create_writer(database, make_secrets)
    assert type(await failure(database.sink(role))) is Refused
    await database.sink(autoMigrate=True).send([record()])
    error = await failure(database.sink(role))
    assert (type(error), "permission denied" in error.message) == (Refused, True)


async def test_a_record_that_does_not_fit_is_refused_alone(database: Database, record: Any) -> None:
    await database.gpuid_table()
    sink = database.sink(autoMigrate=True)
    for poison in (record(source="s" * 256), record(node="nul\0")):
        with pytest.raises(RecordsRefused):
            await sink.send([record(), poison])
    await sink.send([record()])
    assert await database.rows("SELECT count(*) FROM serials") == [(1,)]


async def test_any_text_is_stored_as_it_is(database: Database, record: Any) -> None:
    texts = ["a\tb\r\nc", "\\N", "\\", "\\.", "\\x41", "", "'\"{}$1", "\u00e9\u20ac\U0001f600\x7f"]
    await database.sink(autoMigrate=True).send([record(node=text, driver=None) for text in texts])
    rows = await database.rows("SELECT node, driver, read_time FROM serials ORDER BY id")
    assert rows == [(text, None, TIME) for text in texts]


async def test_any_name_of_an_index_is_read_as_it_is(database: Database, record: Any) -> None:
    await database.sink(autoMigrate=True).send([])
    name = r'"odd\n ""' + "\t'name\u00e9\""
    await database.connection.execute(f"CREATE UNIQUE INDEX {name} ON serials (machine)")
    with pytest.raises(Refused, match=r"UNIQUE \(machine\) of table") as caught:
        await database.sink().send([record(), record()])
    assert caught.value.detail == f'DROP INDEX "public".{name};\n'


async def test_a_batch_that_is_there_already_stays_within_the_bounds(
    database: Database, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL answers with an error for each of its records."""
    allowances: list[Allowance] = []

    def for_batch(records: int) -> Allowance:
        allowances.append(Allowance(limit=records * 2048))
        return allowances[-1]

    await database.sink(autoMigrate=True).send(batch := [record() for _ in range(500)])
    monkeypatch.setattr(Allowance, "for_batch", for_batch)
    await database.sink().send(batch)
    (found,) = allowances
    assert found.received > 500 * 100
    assert found.exceeded is None


async def test_a_sequence_behind_the_ids_is_refused_with_the_sql_that_repairs_it(
    database: Database, record: Any
) -> None:
    """As after a data-only restore, or on a logical replica that was promoted."""
    await database.sink(autoMigrate=True).send([record() for _ in range(10)])
    await database.connection.execute("ALTER SEQUENCE serials_id_seq RESTART WITH 1")
    batch = [record(), record()]
    with pytest.raises(Refused, match="behind max") as refused:
        await database.sink().send(batch)
    assert refused.value.detail is not None
    assert (await database.rows("SELECT count(*) FROM serials")) == [(10,)]
    await database.connection.execute(refused.value.detail)
    await database.sink().send(batch)
    assert (await database.rows("SELECT count(*) FROM serials")) == [(12,)]


async def test_a_sequence_that_is_hardly_behind_loses_no_record(
    database: Database, record: Any
) -> None:
    """The ids that the first attempt has used up bring it past the table's."""
    await database.sink(autoMigrate=True).send([record(), record()])
    await database.connection.execute("ALTER SEQUENCE serials_id_seq RESTART WITH 1")
    await database.sink().send([record(), record()])
    assert (await database.rows("SELECT count(*) FROM serials")) == [(4,)]


@pytest.mark.parametrize(
    "how", ["CREATE UNIQUE INDEX own ON serials", "ALTER TABLE serials ADD CONSTRAINT own UNIQUE"]
)
async def test_a_unique_of_the_users_own_that_swallows_records_is_refused(
    database: Database, record: Any, how: str
) -> None:
    await database.sink(autoMigrate=True).send([record()])
    await database.connection.execute(f"{how} (uuid, event, read_time)")
    batch = [record(uuid="GPU-9"), record(uuid="GPU-9")]
    with pytest.raises(Refused, match=r"UNIQUE \(uuid, event, read_time\)") as refused:
        await database.sink().send(batch)
    assert refused.value.detail is not None
    assert (await database.rows("SELECT count(*) FROM serials")) == [(1,)]
    await database.connection.execute(refused.value.detail)
    await database.sink().send(batch)
    assert (await database.rows("SELECT count(*) FROM serials")) == [(3,)]


async def test_a_unique_of_the_users_own_may_come_after_the_first_batch(
    database: Database, record: Any
) -> None:
    sink = database.sink(autoMigrate=True)
    await sink.send([record()])
    await database.connection.execute("CREATE UNIQUE INDEX own ON serials (uuid, read_time)")
    batch = [record(uuid="GPU-9"), record(uuid="GPU-9")]
    with pytest.raises(Refused, match=r"UNIQUE \(uuid, read_time\)") as refused:
        await sink.send(batch)
    await database.connection.execute(refused.value.detail)
    await sink.send(batch)
    assert (await database.rows("SELECT count(*) FROM serials")) == [(3,)]


async def test_what_is_there_by_its_record_id_counts_as_delivered_with_insert_alone(
    database: Database, record: Any, make_secrets: Any
) -> None:
    await database.sink(autoMigrate=True).send([])
    secrets = await create_writer(database, make_secrets, "serials")
    batch = [record(), record()]
    await database.sink(secrets).send(batch)
    await database.sink(secrets).send([*batch, record(), batch[0]])
    assert (await database.rows("SELECT count(*) FROM serials")) == [(3,)]


async def test_a_table_dropped_meanwhile_is_made_again(database: Database, record: Any) -> None:
    sink = database.sink(autoMigrate=True)
    await sink.send([record()])
    await database.connection.execute("DROP TABLE serials CASCADE")
    with pytest.raises(Refused, match="does not exist"):
        await sink.send([record()])
    await sink.send([record()])
    assert await database.rows("SELECT count(*) FROM serials") == [(1,)]


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
async def test_ssl_modes_without_an_authority(database: Database, record: Any, mode: str) -> None:
    await database.sink(autoMigrate=True, sslMode=mode).send([record()])


@pytest.mark.parametrize(
    ("mode", "host", "works"),
    [
        ("require", "127.0.0.1", True),
        ("verify-ca", "127.0.0.1", True),
        ("verify-full", "localhost", True),
        ("verify-full", "127.0.0.1", False),
    ],
)
async def test_ssl_modes_with_an_authority(
    database: Database, record: Any, certificates: Any, mode: str, host: str, works: bool
) -> None:
    database.secrets.values["ca"] = certificates.authority
    reference = {"caSecretRef": {"name": "pg", "key": "ca"}}
    sink = database.sink(autoMigrate=True, host=host, sslMode=mode, **reference)
    if works:
        await sink.send([record()])
    else:
        with pytest.raises(Refused, match="caSecretRef, or replace the certificate"):
            await sink.send([record()])


async def test_an_unknown_authority_is_refused(database: Database, record: Any) -> None:
    for mode in ("verify-ca", "verify-full"):
        sink = database.sink(autoMigrate=True, host="localhost", sslMode=mode)
        with pytest.raises(Refused, match="certificate verify failed"):
            await sink.send([record()])
    database.secrets.values["ca"] = "no certificate"
    reference = {"caSecretRef": {"name": "pg", "key": "ca"}}
    with pytest.raises(Refused, match="caSecretRef holds no PEM certificate"):
        await database.sink(sslMode="require", **reference).send([record()])


async def test_the_environment_of_the_process_plays_no_part(
    database: Database, record: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", database.server.password)
    monkeypatch.setenv("PGUSER", database.server.user)
    monkeypatch.setenv("PGSSLMODE", "nonsense")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "nonsense")
    await database.sink(autoMigrate=True).send([record()])
    with pytest.raises(Refused, match="password authentication failed"):
        await database.sink(passwordSecretRef=None).send([record()])


class Wire:
    """A connection to the server that stands still when it is cut, as a network may do."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.cut_after: bytes | None = None
        self.cut = asyncio.Event()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += (writer, downstream)
        self._tasks |= {
            asyncio.create_task(self._copy(reader, downstream, outgoing=True)),
            asyncio.create_task(self._copy(upstream, writer, outgoing=False)),
        }

    async def _copy(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outgoing: bool
    ) -> None:
        while data := await reader.read(65536):
            if outgoing and self.cut_after and self.cut_after in data:
                self.cut.set()
            if self.cut.is_set():
                continue
            writer.write(data)
            await writer.drain()
        if not self.cut.is_set():
            writer.close()

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize("statement", [b"BEGIN", b"COPY", b"COMMIT\0"])
@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_server_that_says_nothing_is_given_up_at_once(
    database: Database,
    record: Any,
    monkeypatch: pytest.MonkeyPatch,
    statement: bytes,
    cancelled: bool,
) -> None:
    batch = [record()]
    wire = Wire(database.server.port)
    listener = await asyncio.start_server(wire.accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    sink = database.sink(autoMigrate=True, sslMode="disable", port=port)
    await sink.send([record()])
    wire.cut_after = statement
    if not cancelled:
        monkeypatch.setattr(postgres, "_BATCH_TIMEOUT", 2.0)
    sending = asyncio.create_task(sink.send(batch))
    await wire.cut.wait()
    if cancelled:
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
    else:
        with pytest.raises(Unavailable, match="no response in time"):
            await sending
    listener.close()
    await wire.close()
    sink = database.sink()
    await sink.send(batch)
    assert await database.rows("SELECT count(*) FROM serials") == [(2,)]
