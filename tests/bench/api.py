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


Stream = Callable[[str], tuple[http.client.HTTPSConnection, http.client.HTTPResponse]]


class Reader:
    """Reads as the administrator, whom the API server's priorities exempt."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._address = urlsplit(cluster.server).netloc
        self._token = cluster.token
        self._context = ssl.create_default_context(cafile=str(cluster.ca_file))
        self._watches: list[Watch] = []

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
        watch = Watch(lambda version: self._stream(path, version, accept), since, handle)
        self._watches.append(watch)
        return watch

    def check(self) -> None:
        """Raise BenchError if a watch has failed."""
        for watch in self._watches:
            watch.check()

    def _stream(
        self, path: str, since: str, accept: str
    ) -> tuple[http.client.HTTPSConnection, http.client.HTTPResponse]:
        connection = self._connect()
        separator = "&" if "?" in path else "?"
        query = f"{path}{separator}watch=1&resourceVersion={since}&timeoutSeconds=36000"
        response = self._ask(connection, query, accept)
        connection.sock.settimeout(None)
        return connection, response

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
    """A watch that runs until `stop`.

    The server ends a watch whose client does not keep up, as on a busy machine; it goes on from the
    last event.
    """

    def __init__(self, connect: Stream, since: str, handle: Callable[[Any], None]) -> None:
        super().__init__(daemon=True)
        self._connect = connect
        self._since = since
        self._handle = handle
        self._stopped = False
        self._failure: str | None = None
        self._connection, self._response = connect(since)
        self._socket = self._connection.sock
        self.start()

    def run(self) -> None:
        while not self._stopped and self._failure is None:
            try:
                self._read()
                if not self._stopped and self._failure is None:
                    self._connection.close()
                    self._connection, self._response = self._connect(self._since)
                    self._socket = self._connection.sock
            except Exception as error:
                self._failure = repr(error)

    def _read(self) -> None:
        while line := self._response.readline():
            event = json.loads(line)
            if event["type"] == "ERROR":
                self._failure = str(event["object"].get("message"))
                return
            self._since = event["object"]["metadata"]["resourceVersion"]
            self._handle(event)

    def stop(self) -> None:
        """End the watch."""
        self._stopped = True
        with suppress(OSError):
            # That of ssl takes the TLS state from the thread that reads, which then waits for ever.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        self.join(10)
        self._connection.close()

    def check(self) -> None:
        """Raise BenchError if the watch has failed."""
        if self._failure is not None and not self._stopped:
            raise BenchError(f"a watch of the benchmark failed: {self._failure}")
