"""Bearer tokens of the operator's own identity, from the metadata server or the token service of
its cloud. No user of the API chooses these addresses; the responses are bounded all the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError

from gpuid_operator.sinks.base import Refused, SinkError, Unavailable, scrub
from gpuid_operator.sinks.http_client import Answer, HTTPClient

METADATA_SERVER: Final = "http://169.254.169.254"
"""At Google and at Azure. The address, because a name could be resolved to another."""

_MAX_TOKEN: Final = 16 * 1024
_TIMEOUT: Final = 10.0
_RENEWED_BEFORE: Final = 180.0
"""Seconds before the end of a token at which the next one is requested. The metadata server of
Google returns the same token until four minutes before its end."""
_TEMPORARY: Final = frozenset({408, 410, 429})
"""Azure's metadata server answers 410 while it is updated."""


@dataclass(frozen=True, kw_only=True)
class TokenRequest:
    """A request whose response is a JSON object with `access_token` and `expires_in` (seconds)."""

    method: str = "GET"
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    secrets: tuple[str, ...] = ()
    """Parts of it that no message may contain."""


class _Token(BaseModel):
    access_token: Annotated[str, Field(pattern=r"^[!-~]+$")]
    expires_in: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class TokenSource:
    """The token of one identity, which is renewed before it expires."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._client = HTTPClient(guarded=False)
        self._token: tuple[str, float] | None = None

    async def get(self, request: TokenRequest) -> str:
        """The token, or a new one by `request`. Raises Unavailable, and Refused if the identity has
        no token."""
        if self._token is None or self._now() >= self._token[1]:
            began = self._now()
            token, lifetime = await self._fetch(request)
            self._token = (token, began + lifetime - _RENEWED_BEFORE)
        return self._token[0]

    def invalidate(self) -> None:
        """Get another token with the next request, because a server refused this one."""
        self._token = None

    async def close(self) -> None:
        self._token = None
        await self._client.close()

    async def _fetch(self, request: TokenRequest) -> tuple[str, float]:
        tried = f"failed to get a token from {urlsplit(request.url).hostname}"
        answer = await self._client.fetch(
            request.method,
            request.url,
            body=request.body,
            headers=request.headers,
            timeout=_TIMEOUT,
            tried=tried,
            limit=_MAX_TOKEN,
        )
        if not answer.succeeded:
            raise _failure(answer, tried, request.secrets)
        try:
            found = _Token.model_validate_json(answer.text)
        except ValidationError:
            raise Unavailable(f"{tried}: the response is no token") from None
        return found.access_token, found.expires_in


def _failure(answer: Answer, tried: str, secrets: tuple[str, ...]) -> SinkError:
    said = scrub(answer.text, secrets, truncated=answer.truncated)
    text = f"{tried}: {answer.status} {answer.phrase}" + (f": {said}" if said else "")
    temporary = answer.status >= 500 or answer.status in _TEMPORARY
    return (Unavailable if temporary else Refused)(text)
