"""The HTTP client that all http sinks share: no redirects, no cookies, bounded bodies and time."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from gpuid_operator.sinks.addresses import address_not_allowed, is_forbidden
from gpuid_operator.sinks.base import Refused, Unavailable

MAX_ANSWER: Final = 4096
"""Bytes that are read of an answer; more is only needed by somebody who means harm."""

_FORBIDDEN_ADDRESS: Final = "address is link-local"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back; `truncated` when the body was longer than MAX_ANSWER."""

    status: int
    phrase: str
    retry_after: str | None
    text: str
    truncated: bool


class HTTPClient:
    """One session for all http sinks. Made within a running loop or without one."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self,
        url: str,
        *,
        body: bytes,
        headers: Mapping[str, str],
        timeout: float,
        tls: ssl.SSLContext | None,
    ) -> Answer:
        """POST and, unless it went well, read the beginning of the answer.

        `timeout` is in seconds and spans the whole exchange; `tls` None trusts the system's
        authorities. Raises AddressNotAllowed, Refused (bad URL, untrusted certificate) and
        Unavailable.
        """
        tried = describe(url)
        try:
            async with self._open().post(
                url,
                data=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=timeout),
                ssl=True if tls is None else tls,
                allow_redirects=False,
                skip_auto_headers=("Accept-Encoding",),
            ) as response:
                text, truncated = ("", False) if response.ok else await _beginning(response)
                return Answer(
                    status=response.status,
                    phrase=response.reason or "",
                    retry_after=response.headers.get("Retry-After"),
                    text=text,
                    truncated=truncated,
                )
        except aiohttp.InvalidURL as error:
            raise Refused("the url cannot be read: write it as https://host/path") from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise Refused(
                f"{tried}: its certificate is not trusted ({error.certificate_error}):"
                " set caSecretRef, or repair the certificate"
            ) from error
        except aiohttp.ClientConnectorError as error:
            cause = error.os_error
            if _FORBIDDEN_ADDRESS in str(cause):
                raise address_not_allowed(error.host) from error
            raise Unavailable(f"{tried}: no connection: {cause.strerror or cause}") from error
        except TimeoutError as error:
            raise Unavailable(f"{tried}: no answer within {timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{tried}: {error or type(error).__name__}") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                # No limit: a sink has one request at a time, and none is to wait for another's.
                connector=aiohttp.TCPConnector(limit=0, socket_factory=_guarded_socket),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


def describe(url: str) -> str:
    """A request in messages: without path and query, which may hold what nobody else may see."""
    parts = urlsplit(url)
    return f"POST {parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for one resolved address; the last place before a connection is made, so that no
    name can resolve differently in between."""
    family, kind, protocol, _, sockaddr = info
    if is_forbidden(str(sockaddr[0])):
        raise OSError(errno.EACCES, _FORBIDDEN_ADDRESS)
    return socket.socket(family=family, type=kind, proto=protocol)


async def _beginning(response: aiohttp.ClientResponse) -> tuple[str, bool]:
    """At most MAX_ANSWER bytes of the body, and whether there is more of it."""
    body = bytearray()
    # The status is known: a body that does not come whole changes nothing about it.
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        while len(body) <= MAX_ANSWER:
            chunk = await response.content.read(MAX_ANSWER + 1 - len(body))
            if not chunk:
                return body.decode(errors="replace"), False
            body += chunk
    response.close()
    return body[:MAX_ANSWER].decode(errors="replace"), True
