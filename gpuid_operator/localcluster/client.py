"""A small synchronous client of the API server, which creates and changes objects.

It does not use the client of the product: the setup of the local cluster must not depend on the
code that is tested with it.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from gpuid_operator.localcluster.errors import ApiError, ServerError

MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"
_PARALLEL: Final = 8


@dataclass(frozen=True)
class Request:
    """One request: `path` begins with `/api`, `body` is sent as JSON."""

    method: str
    path: str
    body: Any = None
    content_type: str = "application/json"
    tolerate: tuple[int, ...] = ()
    """Error statuses that count as success (409: the object exists, 404: it does not)."""


class ApiClient:
    """Requests to one API server with a bearer token."""

    def __init__(self, *, server: str, token: str, ca_file: Path) -> None:
        self._address = urlsplit(server).netloc
        self._server = server
        self._token = token
        self._ca_file = ca_file
        self._context: ssl.SSLContext | None = None

    def get(self, path: str, **query: str) -> Any:
        return self.send(Request("GET", path + ("?" + urlencode(query) if query else "")))

    def send(self, request: Request, *, timeout: float = 30) -> Any:
        """The JSON of the response, or None for a tolerated error."""
        with closing(self._connect(timeout)) as connection:
            return self._exchange(connection, request)

    def send_all(self, requests: Iterable[Request]) -> None:
        """Send many requests over a few connections. Raises the first error."""
        queue = iter(requests)
        lock = threading.Lock()

        def take() -> Iterator[Request]:
            while True:
                with lock:
                    request = next(queue, None)
                if request is None:
                    return
                yield request

        def work() -> None:
            with closing(self._connect(60)) as connection:
                for request in take():
                    self._exchange(connection, request)

        with ThreadPoolExecutor(_PARALLEL) as pool:
            for future in [pool.submit(work) for _ in range(_PARALLEL)]:
                future.result()

    def _connect(self, timeout: float) -> http.client.HTTPSConnection:
        if self._context is None:
            self._context = ssl.create_default_context(cafile=str(self._ca_file))
        return http.client.HTTPSConnection(self._address, timeout=timeout, context=self._context)

    def _exchange(self, connection: http.client.HTTPSConnection, request: Request) -> Any:
        body = None if request.body is None else json.dumps(request.body)
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = request.content_type
        try:
            connection.request(request.method, request.path, body=body, headers=headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(
                f"failed to send {request.method} {self._server}{request.path}: {error}; check "
                "that the API server is running: its log is logs/kube-apiserver.log in the "
                "directory of the cluster"
            ) from error
        if response.status < 400:
            return json.loads(content) if content[:1] in (b"{", b"[") else content.decode()
        if response.status in request.tolerate:
            return None
        raise ApiError(
            response.status,
            f"{request.method} {self._server}{request.path}: {response.status} "
            f"{response.reason}: {_message(content)}",
        )


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        return content[:500].decode(errors="replace")
