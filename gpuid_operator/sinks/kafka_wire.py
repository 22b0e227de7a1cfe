"""A connection to one Kafka broker, with bounds on what the broker can make the operator do.

A user who may write a sink chooses the brokers, and they name others. aiokafka encodes and decodes
the messages of the protocol. Its own connection reads a frame of any length and derives the key of
SCRAM with as many iterations as the broker demands, and its client connects to any address that a
broker names.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import struct
from io import BytesIO
from typing import Any, Final, Self

from aiokafka.conn import ScramAuthenticator
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.admin import (
    ApiVersionRequest,
    SaslAuthenticateRequest,
    SaslHandShakeRequest,
)

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.sinks import SASLMechanism
from gpuid_operator.sinks.addresses import resolve
from gpuid_operator.sinks.base import Refused, SinkError, Unavailable, scrub
from gpuid_operator.sinks.bounded_socket import BoundedSocket
from gpuid_operator.sinks.kafka_access import Access, Login, LoginRefused
from gpuid_operator.sinks.kafka_errors import described, error_kind

MAX_FRAME: Final = 128 * 1024
"""Maximum length of one response in bytes: the metadata of some 2,000 partitions."""
MIN_ITERATIONS: Final = 4096
"""Minimum number of SCRAM iterations, as in Kafka. Fewer would make the password easy to guess."""
MAX_ITERATIONS: Final = 100_000
"""Maximum number of SCRAM iterations of one login: some 50 ms in a thread."""

_CONNECT_TIMEOUT: Final = 10.0
_RESPONSE_TIMEOUT: Final = 15.0
_LENGTH: Final = struct.Struct(">i")
_ALERT: Final = "ALERT"

# The sink reports what fails. aiokafka would log user names, and a traceback per invalid message.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


class BrokerConnection:
    """Sends one request at a time. After an error or a cancellation, the connection is closed."""

    def __init__(self, access: Access, *, tried: str) -> None:
        """`tried` is the beginning of messages of errors."""
        self.access = access
        self._tried = tried
        self._versions: dict[int, tuple[int, int]] = {}
        self._number = 0
        self._socket: BoundedSocket | None = None
        self._reader = asyncio.StreamReader()
        self._writer: asyncio.StreamWriter | None = None

    @classmethod
    async def open(cls, host: str, port: int, access: Access, *, tried: str) -> Self:
        """Connect and log in. Raises SinkError."""
        connection = cls(access, tried=tried)
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                addresses = await resolve(host, port)
                await connection._connect(host, port, addresses)
                await connection._negotiate()
                if access.login is not None:
                    await connection._log_in(access.login)
        except TimeoutError as error:
            connection.close()
            raise Unavailable(f"{tried}: failed to connect in time") from error
        except BaseException:
            connection.close()
            raise
        return connection

    @property
    def is_open(self) -> bool:
        """Whether neither side has closed the connection, as far as is known."""
        return self._writer is not None and not (
            self._writer.is_closing() or self._reader.at_eof() or self._reader.exception()
        )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._writer = None

    async def ask(self, request: Any) -> dict[str, Any]:
        """The response to a request of aiokafka.protocol, as a dict. Raises SinkError."""
        try:
            async with asyncio.timeout(_RESPONSE_TIMEOUT):
                return await self._exchange(request)
        except (OSError, EOFError, TimeoutError) as error:
            self.close()
            raise self._broken(error) from error
        except BaseException:
            self.close()
            raise

    def failure(self, code: int) -> SinkError | None:
        """The error for the code of a response; None if it is none."""
        kind = error_kind(code)
        return None if kind is None else kind(self._message(described(code)))

    def violation(self, error: Exception) -> Refused:
        """The error for a response that a broker would not send."""
        said = self._scrubbed(str(error) or type(error).__name__)
        return Refused(
            self._message(f"the broker violates the protocol of Kafka ({said}); check the address")
        )

    async def _exchange(self, request: Any) -> dict[str, Any]:
        try:
            prepared = request.prepare(self._versions)
        except (IncompatibleBrokerVersion, NotImplementedError) as error:
            raise Refused(
                self._message(f"the broker does not support {type(request).__name__}")
            ) from error
        self._number += 1
        header = prepared.build_request_header(self._number, MANAGER)
        frame = await self._frame(header.encode() + prepared.encode())
        try:
            number = prepared.parse_response_header(frame).correlation_id
            if number != self._number:
                raise ValueError(f"response {number} to request {self._number}")
            response: dict[str, Any] = prepared.RESPONSE_TYPE.decode(frame).to_object()
        except Exception as error:  # whatever the broker sent
            raise self.violation(error) from error
        return response

    async def _frame(self, request: bytes) -> BytesIO:
        if self._writer is None or self._socket is None:
            raise ConnectionError("the connection is closed")
        self._socket.renew()
        self._writer.write(_LENGTH.pack(len(request)) + request)
        await self._writer.drain()
        (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
        if not _LENGTH.size <= length <= MAX_FRAME:
            raise Refused(
                self._message(
                    f"the server sent a response of {length} bytes, more than {MAX_FRAME};"
                    " check the address, and whether the port expects TLS"
                )
            )
        return BytesIO(await self._reader.readexactly(length))

    async def _connect(self, host: str, port: int, addresses: list[str]) -> None:
        context = self.access.tls.context if self.access.tls else None
        broken: Exception = ConnectionError("no address")
        # An address that does not answer leaves time for others.
        timeout = _CONNECT_TIMEOUT / min(len(addresses), 3)
        for address in addresses:
            try:
                async with asyncio.timeout(timeout):
                    await self._connect_to(address, port, context, host)
            except (OSError, ValueError) as error:  # ValueError: no name that TLS knows
                broken = error
            else:
                return
        raise self._broken(broken) from broken

    async def _connect_to(
        self, address: str, port: int, context: ssl.SSLContext | None, host: str
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._socket = BoundedSocket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(self._socket, (address, port))
            self._reader, self._writer = await asyncio.open_connection(
                sock=self._socket, ssl=context, server_hostname=host if context else None
            )
        except BaseException:
            self._socket.close()
            raise

    async def _negotiate(self) -> None:
        response = await self.ask(ApiVersionRequest())
        try:
            self._versions = {
                api["api_key"]: (api["min_version"], api["max_version"])
                for api in response["api_versions"]
            }
        except TypeError as error:  # a null array
            raise self.violation(error) from error

    async def _log_in(self, login: Login) -> None:
        response = await self.ask(SaslHandShakeRequest(login.mechanism.value))
        if response["error_code"]:
            enabled = ", ".join(map(str, response["enabled_mechanisms"] or ())) or "none"
            raise Refused(
                self._message(
                    described(response["error_code"], f"enabled SASL mechanisms: {enabled}")
                )
            )
        if login.mechanism is SASLMechanism.PLAIN:
            await self._authenticate(f"\0{login.user}\0{login.password}".encode())
            return
        scram = ScramAuthenticator(
            loop=asyncio.get_running_loop(),
            sasl_plain_username=login.user,
            sasl_plain_password=login.password,
            sasl_mechanism=login.mechanism.value,
        )
        said: bytes | None = None
        for step in range(3):
            if step == 1:
                self._check_iterations(said or b"")
            try:
                to_send = await scram.step(said)
            except Exception as error:  # whatever the broker sent
                raise self.violation(error) from error
            if to_send is None:  # the broker has proved that it knows the password, too
                return
            said = await self._authenticate(to_send[0])

    async def _authenticate(self, token: bytes) -> bytes:
        response = await self.ask(SaslAuthenticateRequest(token))
        if response["error_code"]:
            said = self._scrubbed(response["error_message"] or "")
            raise LoginRefused(self._message(described(response["error_code"], said)))
        return response["sasl_auth_bytes"] or b""

    def _check_iterations(self, said: bytes) -> None:
        try:
            fields = dict(field.split("=", 1) for field in said.decode().split(","))
            iterations = int(fields["i"])
        except (ValueError, KeyError) as error:
            raise self.violation(error) from error
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise Refused(
                self._message(
                    f"the broker demands {iterations} SCRAM iterations; allowed are"
                    f" {MIN_ITERATIONS} to {MAX_ITERATIONS}"
                )
            )

    def _broken(self, error: Exception) -> SinkError:
        """The error for a connection that failed."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return Refused(
                self._message(
                    f"untrusted certificate ({error.verify_message}): set tls.caSecretRef, or"
                    " replace the certificate"
                )
            )
        if isinstance(error, ssl.SSLError) and _ALERT in (error.reason or ""):
            return LoginRefused(
                self._message(
                    f"the broker rejects the TLS connection ({error.reason}): check"
                    " tls.certSecretRef"
                )
            )
        if isinstance(error, TimeoutError):
            return Unavailable(self._message("no response in time"))
        if isinstance(error, EOFError | ConnectionResetError):
            return Unavailable(
                self._message(
                    "the broker closed the connection; if it always does, check the port, tls,"
                    " sasl and insecure"
                )
            )
        return Unavailable(self._message(str(getattr(error, "strerror", None) or error)))

    def _message(self, what: str) -> str:
        return f"{self._tried}: {what}"

    def _scrubbed(self, said: str) -> str:
        return scrub(said, self.access.secrets)
