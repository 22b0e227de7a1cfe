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
    RecordsRefused,
    Refused,
    SinkError,
    Unavailable,
    scrub,
)
from gpuid_operator.sinks.opening import SinkOpening
from gpuid_operator.sinks.postgres_conflicts import check_conflicts, inserted
from gpuid_operator.sinks.postgres_table import Prepared, prepare
from gpuid_operator.sinks.postgres_wire import Allowance, allowance, copy_text
from gpuid_operator.sinks.secrets import SecretSource
from gpuid_operator.telemetry.log import SecretsInUse, get_logger

_DEFAULT_PORT: Final = 5432
_DEFAULT_TABLE: Final = "serials"
_CONNECT_TIMEOUT: Final = 10.0
_BATCH_TIMEOUT: Final = 60.0

# Classes of SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html
_CREDENTIALS: Final = ("28",)
_SINK: Final = ("28", "3D", "3F", "42", "0L", "0P")
_RECORDS: Final = ("22", "23")

_ERRORS: Final = (
    *(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError),
    # asyncpg, where the server violates the protocol:
    *(asyncpg.InternalClientError, AttributeError, BufferError, LookupError, TypeError),
)


_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Credentials:
    user: str
    password: str
    authorities: str | None


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
        self._prepared: Prepared | None = None
        self._advised = False

    async def send(self, records: Sequence[Record]) -> None:
        namespace, name = schema.split_name(self._table)
        credentials = await self._credentials()
        addresses = await resolve(self._spec.host, self._port)
        allowed = Allowance.for_batch(len(records))
        allowance.set(allowed)
        try:
            async with self._connected(addresses, credentials) as connection:
                if self._prepared is None:
                    self._prepared = await prepare(
                        connection,
                        namespace=namespace,
                        name=name,
                        migrate=bool(self._spec.auto_migrate),
                        optional=not self._advised,
                    )
                    self._advise(self._prepared, credentials)
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
                            connection, table=self._prepared, records=len(records)
                        )
                    await connection.execute("COMMIT")
        except SinkError:
            self._prepared = None
            raise
        except _ERRORS as error:
            self._prepared = None
            raise self._sink_error(error, credentials, allowed) from error
        _log.info(
            "export completed",
            table=self._table,
            records=len(records),
            database=self._spec.database,
        )

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

    def _advise(self, prepared: Prepared, credentials: _Credentials) -> None:
        """Log the SQL for what the table lacks, once."""
        if prepared.advice and not self._advised:
            self._advised = True
            failure = scrub(prepared.failure, [credentials.password])
            _log.warning(
                "table lacks indexes or views; run the SQL as its owner",
                table=prepared.table,
                sql=prepared.advice,
                **{"error": failure} if failure else {},
            )

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
