"""Reads of a benchmark from the API server: lists without bodies, and watches.

`gpuid_operator.localcluster.client` writes; it can choose no media type, and a list of 5,000 Node
objects would take 125 MB.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, Final
from urllib.parse import urlsplit

from gpuid_operator.localcluster import LocalCluster
from tests.bench.errors import BenchError

NODES: Final = "/api/v1/nodes"
INVENTORIES: Final = "/apis/gpuid.github.com/v1alpha1/gpuinventories"
METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST: Final = METADATA.replace("Metadata;", "MetadataList;")
TABLE: Final = "application/json;as=Table;g=meta.k8s.io;v=v1"
"""What `kubectl get` shows, as JSON."""


class Reader:
    """Reads as the administrator, whom the API server's priorities exempt."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._address = urlsplit(cluster.server).netloc
        self._token = cluster.token
        self._context = ssl.create_default_context(cafile=str(cluster.ca_file))

    def get(self, path: str, *, accept: str = "application/json") -> Any:
        """The JSON of a response. Raises BenchError unless it is a success."""
        with closing(self._connect()) as connection:
            return json.loads(self._ask(connection, path, accept).read())

    def metadata(self, path: str) -> list[dict[str, Any]]:
        """The metadata of all objects of a collection."""
        return [one["metadata"] for one in self.get(path, accept=METADATA_LIST)["items"] or ()]

    def version(self, path: str) -> str:
        """The resourceVersion of a collection now, from which a watch can start: that of an object
        may be too old for the server."""
        head = self.get(f"{path}?limit=1", accept=METADATA_LIST)["metadata"]
        return str(head["resourceVersion"])

    def watch(self, path: str, *, since: str, accept: str, handle: Callable[[Any], None]) -> Watch:
        """Call `handle` in another thread with each event after the resourceVersion `since`."""
        connection = self._connect()
        separator = "&" if "?" in path else "?"
        query = f"{path}{separator}watch=1&resourceVersion={since}&timeoutSeconds=36000"
        return Watch(connection, self._ask(connection, query, accept), handle)

    def _connect(self) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection(self._address, timeout=120, context=self._context)

    def _ask(
        self, connection: http.client.HTTPSConnection, path: str, accept: str
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self._token}", "Accept": accept}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            raise BenchError(f"GET {path}: {response.status} {response.read(500)!r}")
        return response


class Watch(threading.Thread):
    """A watch that runs until `stop`."""

    def __init__(
        self,
        connection: http.client.HTTPSConnection,
        response: http.client.HTTPResponse,
        handle: Callable[[Any], None],
    ) -> None:
        super().__init__(daemon=True)
        self._connection = connection
        self._response = response
        self._handle = handle
        self._socket = connection.sock
        self._stopped = False
        self.failure: str | None = None
        """Why the watch ended before `stop`."""
        self._socket.settimeout(None)
        self.start()

    def run(self) -> None:
        try:
            while line := self._response.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    self.failure = str(event["object"].get("message"))
                    return
                self._handle(event)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.failure = None if self._stopped else repr(error)
        else:
            self.failure = None if self._stopped else "the server ended the watch"

    def stop(self) -> None:
        """End the watch. Raises BenchError if it had ended before."""
        self.check()
        self._stopped = True
        with suppress(OSError):
            # That of ssl takes the TLS state from the thread that reads, which then waits for ever.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self.join(10)
        self._connection.close()

    def check(self) -> None:
        """Raise BenchError if the watch has ended."""
        if self.failure is not None:
            raise BenchError(f"a watch of the benchmark ended: {self.failure}")
