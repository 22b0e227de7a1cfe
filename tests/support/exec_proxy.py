"""A proxy in front of the API server that counts what execs print, and cuts them in the middle."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from gpuid_operator.localcluster import LocalCluster
from tests.support.api_fault_proxy import ApiFaultProxy, _Connection


class ExecProxy(ApiFaultProxy):
    """Passes on no faster than the operator reads, so that its count is what the operator took."""

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(cluster)
        self.exec_bytes = 0
        """Bytes of all answers to execs."""
        self.cut_after: int | None = None
        """Bytes after which an answer to an exec breaks off."""
        self.cuts = 0

    async def _answer(self, answers: asyncio.StreamReader, connection: _Connection) -> None:
        passed: int | None = None
        with suppress(OSError):
            while data := await answers.read(65_536):
                if passed is not None or "/exec?" in connection.request:
                    passed = (passed or 0) + len(data)
                    self.exec_bytes += len(data)
                    if self.cut_after is not None and passed > self.cut_after:
                        connection.writer.write(data[: len(data) // 2])
                        self.cuts += 1
                        break
                elif "watch=true" not in connection.request:
                    connection.request = ""
                connection.writer.write(data)
                await connection.writer.drain()
        connection.writer.transport.abort()
