"""A web service that receives an operator's records and answers as the test says."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.otlp_logs import records_of

Answer = tuple[int, dict[str, str]]
"""Status and headers."""

TAKEN: Answer = (204, {})


@dataclass(frozen=True)
class Delivery:
    """One request of a sink, and the status that it received."""

    headers: dict[str, str]
    records: list[dict[str, Any]]
    status: int


class WebService:
    """Receives POSTs. Use it as a context; `answer` decides what is accepted, and may wait. Of OTLP
    logs that it answers with 200, `rejects` decides on each."""

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, str], list[dict[str, Any]]], Answer] = lambda *_: TAKEN
        self.rejects: Callable[[dict[str, Any]], bool] = lambda _: False
        self._deliveries: list[Delivery] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                service._serve(self)

            def log_message(self, *_: object) -> None:
                """Log nothing: the service keeps what it received."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def deliveries(self) -> list[Delivery]:
        """Every request that was answered, oldest first."""
        return list(self._deliveries)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The accepted records, in order of arrival."""
        return [
            record
            for delivery in self.deliveries
            if delivery.status < 300
            for record in delivery.records
        ]

    def sink(self, name: str = "cmdb", *, port: int | None = None, **fields: Any) -> dict[str, Any]:
        """A sink that sends here, or to a proxy in front of it that listens on `port`."""
        http = {"url": f"http://localhost:{port or self.port}/gpus", "insecure": True}
        own: dict[str, Any] = {
            key: fields.pop(key) for key in ("records", "batch") if key in fields
        }
        return {"name": name, "batch": {"maxWait": "50ms"}, **own, "http": http | fields}

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in request.headers.items()}
        records = json.loads(body)
        rejected: list[dict[str, Any]] | None = None
        if isinstance(records, dict):
            every = records_of(records)
            rejected = [record for record in every if self.rejects(record)]
            records = [record for record in every if record not in rejected]
        status, extra = self.answer(headers, records)
        self._deliveries.append(Delivery(headers, records, status))
        said = b""
        if rejected is not None and status == HTTPStatus.OK:
            partial = {"rejectedLogRecords": str(len(rejected)), "errorMessage": "not this one"}
            said = json.dumps({"partialSuccess": partial}).encode()
        with suppress(OSError):  # the sink was killed, or gave up waiting
            request.send_response(status)
            for name, value in extra.items():
                request.send_header(name, value)
            request.send_header("Content-Length", str(len(said)))
            request.end_headers()
            request.wfile.write(said)
