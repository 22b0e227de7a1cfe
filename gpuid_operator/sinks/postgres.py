"""postgres: inserts records into a table that has gpuid's columns and more."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import PostgresSink, SecretKeyRef, SSLMode
from gpuid_operator.sinks import postgres_schema as schema
from gpuid_operator.sinks.addresses import resolve
from gpuid_operator.sinks.base import (
    MAX_MESSAGE,
    RecordsRefused,
    Refused,
    SinkError,
    Unavailable,
    scrub,
)
from gpuid_operator.sinks.opening import SinkOpening
from gpuid_operator.sinks.postgres_conflicts import check_conflicts, inserted
from gpuid_operator.sinks.postgres_wire import Allowance, allowance, copy_text, read_rows
from gpuid_operator.sinks.secrets import SecretSource
from gpuid_operator.telemetry.log import SecretsInUse

_DEFAULT_PORT: Final = 5432
_DEFAULT_TABLE: Final = "serials"
_CONNECT_TIMEOUT: Final = 10.0
_BATCH_TIMEOUT: Final = 60.0
_MIGRATION_TIMEOUT: Final = 600.0
_LOCK: Final = 0x67707569  # "gpui": only one instance may migrate at a time

# Classes of SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html
_CREDENTIALS: Final = ("28",)
_SINK: Final = ("28", "3D", "3F", "42", "0L", "0P")
_RECORDS: Final = ("22", "23")

_ERRORS: Final = (
    *(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError),
    # asyncpg, where the server violates the protocol:
    *(asyncpg.InternalClientError, AttributeError, BufferError, LookupError, TypeError),
)


@dataclass(frozen=True, kw_only=True)
class _Credentials:
    user: str
    password: str
    authorities: str | None


@dataclass(frozen=True)
class _Prepared:
    """A table that was found fit, or made so."""

    table: str
    """Quoted and qualified."""
    uniques: tuple[schema.Unique, ...]


def open_sink(spec: PostgresSink, opening: SinkOpening) -> PostgresSender:
    return PostgresSender(spec, secrets=opening.secrets)


class PostgresSender:
    """Inserts each batch in one transaction over a new connection.

    Batches are at least a second apart. A new connection costs some milliseconds and saves the
    handling of dead connections, changed passwords and fail-overs.
    """

    def __init__(self, spec: PostgresSink, *, secrets: SecretSource) -> None:
        self._spec = spec
        self._secrets = secrets
        self._in_use = SecretsInUse()
        self._port = spec.port or _DEFAULT_PORT
        self._table = spec.table or _DEFAULT_TABLE
        self._prepared: _Prepared | None = None

    async def send(self, records: Sequence[Record]) -> None:
        namespace, name = schema.split_name(self._table)
        credentials = await self._credentials()
        addresses = await resolve(self._spec.host, self._port)
        allowed = Allowance.for_batch(len(records))
        allowance.set(allowed)
        try:
            async with self._connected(addresses, credentials) as connection:
                if self._prepared is None:
                    self._prepared = await self._ready(connection, namespace=namespace, name=name)
                table = self._prepared.table
                async with asyncio.timeout(_BATCH_TIMEOUT):
                    await connection.execute(f"BEGIN; {schema.CREATE_BATCH}")
                    await connection.copy_to_table(
                        "gpuid_batch",
                        schema_name="pg_temp",
                        columns=("position", *schema.WRITTEN_COLUMNS),
                        source=copy_text(
                            [(str(n), *_row(record)) for n, record in enumerate(records)]
                        ),
                    )
                    done = await connection.execute(schema.insert_statement(table))
                    if inserted(done) < len(records):
                        await check_conflicts(
                            connection,
                            table=table,
                            records=len(records),
                            uniques=self._prepared.uniques,
                        )
                    await connection.execute("COMMIT")
        except SinkError:
            self._prepared = None
            raise
        except _ERRORS as error:
            self._prepared = None
            raise self._sink_error(error, credentials, allowed) from error

    async def close(self) -> None:
        self._in_use.set()  # no connection outlives its batch

    @contextlib.asynccontextmanager
    async def _connected(
        self, addresses: list[str], credentials: _Credentials
    ) -> AsyncIterator[Any]:
        """A connection to one of the addresses, independent of the environment of the process.

        After an error or a cancellation, the connection is closed without ROLLBACK: the server
        rolls back by itself, and an unresponsive server would not respond to ROLLBACK either.
        """
        connection = await asyncpg.connect(
            host=addresses,
            port=self._port,
            user=credentials.user,
            password=credentials.password,
            database=self._spec.database,
            ssl=self._tls(credentials.authorities),
            direct_tls=False,
            target_session_attrs="any",
            timeout=_CONNECT_TIMEOUT,
            # Transaction poolers do not support prepared statements.
            statement_cache_size=0,
            server_settings={"application_name": MANAGER},
        )
        try:
            yield connection
            with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await connection.close(timeout=_CONNECT_TIMEOUT)
        finally:
            connection.terminate()

    def _tls(self, authorities: str | None) -> ssl.SSLContext | str | bool:
        """The TLS settings for libpq's sslmode; defaults to the authorities of the system."""
        mode = self._spec.ssl_mode or SSLMode.REQUIRE
        if mode is SSLMode.DISABLE:
            return False
        if mode in (SSLMode.ALLOW, SSLMode.PREFER):
            return mode.value
        context = _NamedContext(ssl.PROTOCOL_TLS_CLIENT)
        context.server_name = self._spec.host
        context.check_hostname = mode is SSLMode.VERIFY_FULL
        if authorities is not None:
            try:
                context.load_verify_locations(cadata=authorities)
            except (ssl.SSLError, ValueError) as error:
                raise Refused("caSecretRef holds no PEM certificate: write one there") from error
        elif mode is SSLMode.REQUIRE:
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_default_certs()
        return context

    async def _ready(self, connection: Any, *, namespace: str | None, name: str) -> _Prepared:
        """Verify or migrate the table.

        Raises Refused, with the SQL to run, if something is missing and autoMigrate is false.
        """
        migrate = bool(self._spec.auto_migrate)
        async with asyncio.timeout(_MIGRATION_TIMEOUT):
            await connection.execute("BEGIN")
            if migrate:
                await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
            found, state = await _inspect(connection, namespace=namespace, name=name)
            migration = schema.plan_migration(state, schema=found, name=name)
            if migrate:
                for statement in migration.statements:
                    await connection.execute(statement)
                if migration.statements:
                    found, state = await _inspect(connection, namespace=namespace, name=name)
            elif migration.problems:
                raise _missing(migration)
            await connection.execute("COMMIT")
        return _Prepared(schema.quoted(found, name), state.uniques if state else ())

    async def _credentials(self) -> _Credentials:
        user = await self._secret(self._spec.user_secret_ref)
        if not user:
            raise Refused("no user name: set userSecretRef")
        password = await self._secret(self._spec.password_secret_ref) or ""
        self._in_use.set(password)
        return _Credentials(
            user=user,
            password=password,
            authorities=await self._secret(self._spec.ca_secret_ref),
        )

    async def _secret(self, ref: SecretKeyRef | None) -> str | None:
        return None if ref is None else await self._secrets.get(ref, host=self._spec.host)

    def _sink_error(
        self, error: Exception, credentials: _Credentials, allowed: Allowance
    ) -> SinkError:
        """The SinkError for an error of asyncpg, by the class of its SQLSTATE."""
        tried = f"failed to insert into {self._table} at {self._spec.host}:{self._port}"
        if allowed.exceeded:
            return Refused(f"{tried}: {allowed.exceeded}; check the address")
        said = scrub(str(error), [credentials.password])
        if isinstance(error, TimeoutError):
            said = "no response in time"
        message = f"{tried}: {said}"
        state = getattr(error, "sqlstate", None) or ""
        if state.startswith(_CREDENTIALS):
            self._secrets.invalidate()
        if state.startswith(_RECORDS):
            return RecordsRefused(message)
        if isinstance(error, ssl.SSLCertVerificationError):
            return Refused(f"{message}: set caSecretRef, or replace the certificate")
        if isinstance(error, ConnectionError) and "rejected SSL" in said:
            return Refused(f"{message}: enable TLS on the server, or set sslMode: disable")
        if state.startswith(_SINK):
            return Refused(message)
        return Unavailable(message)


class _NamedContext(ssl.SSLContext):
    """Verifies the certificate against the host of the sink, although asyncpg connects to an
    address."""

    server_name: str

    def wrap_bio(self, *args: Any, **arguments: Any) -> ssl.SSLObject:
        return super().wrap_bio(*args, **{**arguments, "server_hostname": self.server_name})


async def _inspect(
    connection: Any, *, namespace: str | None, name: str
) -> tuple[str, schema.TableState | None]:
    query = schema.TABLE_QUERY.format(table=schema.literal(schema.quoted(namespace, name)))
    tables = await read_rows(connection, query, schema.Table)
    if not tables:
        if namespace is None:
            (current,) = await read_rows(connection, schema.SCHEMA_QUERY, schema.CurrentSchema)
            namespace = current.schema
        if namespace is None:
            raise Refused(f"no schema for table {name}: use schema.{name}, or set a search_path")
        return namespace, None
    table = tables[0]
    if not table.is_table:
        raise Refused(f"{schema.quoted(table.schema, name)} is not a table: use another name")
    uniques = await read_rows(connection, schema.UNIQUES_QUERY.format(oid=table.oid), schema.Unique)
    views = {"gpu_current": table.has_current, "gpu_sightings": table.has_sightings}
    return table.schema, schema.TableState(
        columns=table.columns,
        uniques=tuple(uniques),
        serial_sequence=table.serial_sequence,
        views=frozenset(view for view, there in views.items() if there),
    )


def _missing(migration: schema.Migration) -> Refused:
    """The error with the problem and the SQL to run: in the message if it fits, always in the
    log."""
    problem = "; ".join(migration.problems)
    advice = "set autoMigrate: true, or run"
    sql = " ".join(f"{statement};" for statement in migration.required)
    message = f"{problem}: {advice} {sql}"
    if len(message) > MAX_MESSAGE:
        message = f"{problem}: {advice} the SQL in the operator's log"
    return Refused(message, detail=migration.sql)


def _row(record: Record) -> tuple[str | None, ...]:
    """The values of WRITTEN_COLUMNS."""
    return (
        record.cluster,
        record.node,
        record.machine,
        record.source,
        record.chassis,
        record.gpu,
        record.time.isoformat(),
        record.id,
        record.event,
        record.uuid,
        record.pci,
        record.product,
        record.driver,
    )
