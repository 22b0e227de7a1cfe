"""The HTTP client of the sinks: no redirects, no cookies, bounded bodies, connections and time."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from gpuid_operator.sinks.addresses import address_not_allowed, is_forbidden
from gpuid_operator.sinks.base import Refused, Unavailable
from gpuid_operator.sinks.bounded_socket import BoundedSocket

MAX_ANSWER: Final = 4096
"""Maximum number of bytes read from a response; a legitimate error needs no more."""

_FORBIDDEN_ADDRESS: Final = "address is link-local"
_REPLACE_CERTIFICATE: Final = "replace the certificate, or add its authority to those of the system"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A response; `truncated` if the body was longer than what was read."""

    status: int
    phrase: str
    retry_after: str | None
    text: str
    truncated: bool

    @property
    def succeeded(self) -> bool:
        return _succeeded(self.status)


class HTTPClient:
    """One session for all sinks. Can be created without a running event loop.

    `guarded`: it refuses addresses of metadata services. A client without this guard is only for
    URLs that no user of the API can choose.
    """

    def __init__(self, *, guarded: bool = True) -> None:
        self._socket = _guarded_socket if guarded else _bounded_socket
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self,
        url: str,
        *,
        body: bytes,
        headers: Mapping[str, str],
        timeout: float,
        tls: ssl.SSLContext | None,
        read_success: bool = False,
    ) -> Answer:
        """Send a POST and, unless it succeeds, read the beginning of the response.

        `read_success`: read the response of a success, too; without the whole response, it is none.
        `timeout` is in seconds and covers the whole exchange. If `tls` is None, the authorities of
        the system are trusted. Raises AddressNotAllowed, Refused (invalid URL, untrusted
        certificate) and Unavailable.
        """
        return await self._send(
            "POST",
            url,
            body=body,
            headers=headers,
            timeout=timeout,
            tls=True if tls is None else tls,
            tried=describe(url),
            advice="set caSecretRef, or replace the certificate",
            read_success=read_success,
        )

    async def upload(
        self,
        method: str,
        url: URL,
        *,
        body: bytes,
        headers: Mapping[str, str],
        timeout: float,
        tried: str,
    ) -> Answer:
        """Send an object as `post` sends records. Messages begin with `tried`, without the URL,
        which may have a signature."""
        return await self._send(
            method,
            url,
            body=body,
            headers=headers,
            timeout=timeout,
            tls=True,
            tried=tried,
            advice=_REPLACE_CERTIFICATE,
        )

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
        tried: str,
        limit: int,
    ) -> Answer:
        """Send a request and read at most `limit` bytes of the response, also if it succeeds."""
        return await self._send(
            method,
            url,
            body=body,
            headers=headers,
            timeout=timeout,
            tls=True,
            tried=tried,
            advice=_REPLACE_CERTIFICATE,
            read_success=True,
            limit=limit,
        )

    async def _send(
        self,
        method: str,
        url: str | URL,
        *,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout: float,
        tls: ssl.SSLContext | bool,
        tried: str,
        advice: str,
        read_success: bool = False,
        limit: int = MAX_ANSWER,
    ) -> Answer:
        try:
            async with self._open().request(
                method,
                url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout),
                ssl=tls,
                allow_redirects=False,
                skip_auto_headers=("Accept-Encoding",),
            ) as response:
                text, truncated = "", False
                if read_success or not _succeeded(response.status):
                    text, truncated = await _beginning(response, limit)
                return Answer(
                    status=response.status,
                    phrase=response.reason or "",
                    retry_after=response.headers.get("Retry-After"),
                    text=text,
                    truncated=truncated,
                )
        except aiohttp.InvalidURL as error:
            raise Refused("invalid url: use the form https://host/path") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise Refused(
                f"{tried}: untrusted certificate ({error.certificate_error}): {advice}"
            ) from error
        except aiohttp.ClientConnectorError as error:
            cause = error.os_error
            if _FORBIDDEN_ADDRESS in str(cause):
                raise address_not_allowed(error.host) from error
            raise Unavailable(f"{tried}: failed to connect: {cause.strerror or cause}") from error
        except TimeoutError as error:
            raise Unavailable(f"{tried}: no response within {timeout:g} s") from error
        except aiohttp.ClientResponseError as error:
            # Its text has the URL.
            raise Unavailable(f"{tried}: invalid response: {error.message}") from None
        except (aiohttp.ClientError, OSError) as error:
            said = getattr(error, "strerror", None) or error or type(error).__name__
            raise Unavailable(f"{tried}: {said}") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # No limit: a sink has one request at a time and must not wait for other sinks.
                # One connection per request, so that its bound is that of one response.
                connector=aiohttp.TCPConnector(
                    limit=0, force_close=True, socket_factory=self._socket
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def _succeeded(status: int) -> bool:
    return 200 <= status < 300


def retry_after_seconds(answer: Answer, *, now: datetime) -> float | None:
    """Retry-After (seconds or an HTTP date) in seconds from now; None if invalid."""
    retry_after = answer.retry_after
    if retry_after is None:
        return None
    if retry_after.strip().isascii() and retry_after.strip().isdigit():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def describe(url: str) -> str:
    """The request as shown in messages."""
    return f"POST {origin(url)}"


def origin(url: str) -> str:
    """The URL without user, path and query, which may contain secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for one resolved address. Checking the address here, right before the connection,
    leaves no time for a name to resolve differently."""
    if is_forbidden(str(info[4][0])):
        raise OSError(errno.EACCES, _FORBIDDEN_ADDRESS)
    return _bounded_socket(info)


def _bounded_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = info
    return BoundedSocket(family=family, type=kind, proto=protocol)


async def _beginning(response: aiohttp.ClientResponse, limit: int) -> tuple[str, bool]:
    """At most limit bytes of the body, and whether there are more."""
    body = bytearray()
    # The status of an error counts without its body, too.
    tolerated = () if _succeeded(response.status) else (aiohttp.ClientError, TimeoutError)
    with contextlib.suppress(*tolerated):
        while len(body) <= limit:
            chunk = await response.content.read(limit + 1 - len(body))
            if not chunk:
                return body.decode(errors="replace"), False
            body += chunk
    response.close()
    return body[:limit].decode(errors="replace"), True
