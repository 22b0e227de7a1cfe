"""An imitation of a Kafka cluster of three brokers, whose errors a test chooses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.gotools import go_tool


class FakeKafka:
    """`brokers` are its addresses. Requests for a partition go to the broker that leads it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.brokers: list[str] = self._answer()

    def create_topic(self, name: str, **configs: str) -> None:
        """A topic with three partitions."""
        self._command(topic=name, configs=configs)

    def move(self, topic: str, broker: int) -> None:
        """Another broker leads the first partition."""
        self._command(topic=topic, move=broker)

    def fail(self, code: int, *, count: int = 1, partition: int | None = None) -> None:
        """Answer the next produce requests with an error. With some codes it nevertheless stores
        the records, as Kafka may."""
        self._command(error=code, count=count, partition=partition)

    def hang(self, count: int = 1) -> None:
        """Leave the next produce requests without an answer."""
        self._command(hang=count)

    def _command(self, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(fields) + "\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


@contextmanager
def run_fake_kafka() -> Iterator[FakeKafka]:
    with subprocess.Popen(
        [str(go_tool("kfake"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield FakeKafka(process)
        finally:
            process.kill()
