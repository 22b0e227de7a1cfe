"""A second API server on the etcd of a local cluster, which hears of everything late.

Between it and etcd is a proxy that holds back what etcd sends. So its watches are late, and its
watch cache, from which it serves lists at `resourceVersion=0`, is as old.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from gpuid_operator.localcluster import LocalCluster, processes
from gpuid_operator.localcluster.client import ApiClient
from gpuid_operator.localcluster.errors import ApiError, ServerError
from gpuid_operator.localcluster.layout import Layout
from gpuid_operator.localcluster.ports import free_ports
from tests.support.loop_thread import LoopThread

_NAME: Final = "kube-apiserver-lagging"
_READY_WITHIN: Final = 120.0


class DelayProxy(LoopThread):
    """Listens in front of a server; what the server sends arrives `delay` seconds later."""

    def __init__(self, port: int) -> None:
        super().__init__("delay-proxy")
        self._upstream = port
        self._server: asyncio.Server | None = None
        self.delay = 0.0

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for one in others:
            one.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
        answering = asyncio.create_task(self._answer(received, writer))
        try:
            with suppress(OSError):
                while data := await reader.read(65_536):
                    upstream.write(data)
                    await upstream.drain()
        finally:
            answering.cancel()
            for one in (writer, upstream):
                one.transport.abort()

    async def _answer(self, received: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on each piece when its time has come, in order."""
        last = 0.0
        while data := await received.read(65_536):
            last = max(last, self._loop.time() + self.delay)
            self._loop.call_at(last, writer.write, data)
        self._loop.call_at(last, writer.transport.abort)


class LaggingApiServer:
    """Use it as a context: the server is ready at its beginning, and lags from then on."""

    def __init__(self, cluster: LocalCluster, *, delay: float) -> None:
        self._cluster = cluster
        self._layout = Layout(cluster.directory)
        self._delay = delay
        first = processes.find(self._layout, "kube-apiserver")
        assert first is not None
        self._command = Path(f"/proc/{first.pid}/cmdline").read_text().rstrip("\0").split("\0")
        etcd = self._option("etcd-servers")
        self._proxy = DelayProxy(int(etcd.rpartition(":")[2]))
        (self._port,) = free_ports(1, host=self._option("bind-address"))

    @property
    def server(self) -> str:
        return f"https://{self._option('bind-address')}:{self._port}"

    def __enter__(self) -> Self:
        self._proxy.__enter__()
        changed = {
            "etcd-servers": f"http://127.0.0.1:{self._proxy.port}",
            "secure-port": str(self._port),
            # One file has one writer.
            "audit-log-path": str(self._layout.logs / f"{_NAME}-audit.log"),
        }
        command = [word for word in self._command if word[2:].partition("=")[0] not in changed]
        command += [f"--{name}={value}" for name, value in changed.items()]
        processes.start(self._layout, _NAME, command)
        self._wait_ready()
        self._proxy.delay = self._delay
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        processes.stop(self._layout, [_NAME], grace=0)
        self._proxy.__exit__(kind, error, traceback)

    def _option(self, name: str) -> str:
        (value,) = [
            word.partition("=")[2] for word in self._command if word.startswith(f"--{name}=")
        ]
        return value

    def _wait_ready(self) -> None:
        client = ApiClient(
            server=self.server, token=self._cluster.token, ca_file=self._cluster.ca_file
        )
        deadline = time.monotonic() + _READY_WITHIN
        while True:
            try:
                client.get("/readyz")
                return
            except (ApiError, ServerError):
                assert time.monotonic() < deadline, "the second API server is not ready"
            time.sleep(0.1)
