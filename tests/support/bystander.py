"""An engine on a fake cluster of two nodes: one that a test meddles with, and a bystander."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from gpuid_operator.kube import errors
from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path, put_node, put_pod, put_policy
from tests.support.schema_strategies import schema_of
from tests.support.smi_fixtures import facts, machine, swapped, uuids
from tests.support.structural import violations

NODE: Final = "n1"
BYSTANDER: Final = "n2"
_KINDS: Final = {
    "gpuinventories": "GPUInventory",
    "gpuinventorypolicies": "GPUInventoryPolicy",
    "gpuquarantines": "GPUQuarantine",
}


class StrictKube(FakeKube):
    """It refuses a status that the CRD's schema refuses."""

    async def request(self, method: str, path: str, *, body: Any = None, **options: Any) -> Any:
        if method == "PATCH" and path.endswith("/status"):
            schema = schema_of(_KINDS[path.split("/")[-3]], "status")
            found = list(violations(schema, body["status"]))
            if found:
                self.refused.extend(found)
                raise errors.Invalid(
                    "invalid", status=422, reason="Invalid", server_message="; ".join(found)
                )
        return await super().request(method, path, body=body, **options)

    def __init__(self) -> None:
        super().__init__()
        self.refused: list[str] = []


class World:
    """Both nodes are read and their histories delivered."""

    def __init__(self, kube: StrictKube, harness: EngineHarness) -> None:
        self.kube = kube
        self.harness = harness
        self._xml = {node: machine(node) for node in (NODE, BYSTANDER)}
        self._swaps = 0
        kube.exec.decide = self._run
        for node in self._xml:
            put_node(kube, node, labels={"bystander": str(node == BYSTANDER).lower()})
            put_pod(kube, node)

    def _run(self, call: ExecCall) -> ExecAnswer:
        if "-x" in call.command:
            return ExecAnswer(stdout=self._xml[call.pod.removeprefix("plugin-")].encode())
        return ExecAnswer(exit_code=1, stderr=b"no such file")

    def status(self, node: str) -> dict[str, Any]:
        found: dict[str, Any] = self.kube.objects.get(inventory_path(node), {}).get("status") or {}
        return found

    def swap(self, node: str) -> str:
        """Put another GPU into a node, which restarts its plugin; the UUID of the new one."""
        self._swaps += 1
        self._xml[node] = swapped(self._xml[node], 0, f"{node}-{self._swaps}")
        self.harness.pod_event(put_pod(self.kube, node, number=1 + self._swaps))
        return uuids(self._xml[node])[0]

    def is_read(self, node: str) -> bool:
        """Whether the last read of a node is in its status, and delivered."""
        status = self.status(node)
        conditions = {one["type"]: one["status"] for one in status.get("conditions") or ()}
        keys = ("uuid", "serial", "pciAddress")
        found = [[gpu.get(key) for key in keys] for gpu in status.get("gpus") or ()]
        wanted = [[gpu.get(key) for key in keys] for gpu in facts(self._xml[node])]
        return (
            found == wanted
            and status["source"]["containerID"].endswith(f"-{1 + self._swaps}")
            and (conditions.get("Ready"), conditions.get("Delivered")) == ("True", "True")
        )

    def says_not_understood(self) -> bool:
        """Whether an Event says that an inventory cannot be parsed."""
        posts = self.kube.asked("POST", "/events$")
        return any(post.body["reason"] == "NotUnderstood" for post in posts)

    def has_record(self, node: str, uuid: str) -> bool:
        """Whether a sink got the record of a GPU that was added."""
        return any(
            (record["node"], record["uuid"], record["event"]) == (node, uuid, "GPUAdded")
            for record in self.harness.records
        )

    async def is_working(self, node: str) -> None:
        """A swap in the node is read, and reaches the sink."""
        uuid = self.swap(node)
        await until(lambda: self.is_read(node) and self.has_record(node, uuid), within=600)


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    """A world whose bystander has a policy of its own, and must be as before at the end."""
    kube = StrictKube()
    harness = EngineHarness(kube, checks_allowed=True, **options)
    made = World(kube, harness)
    own = {"matchLabels": {"bystander": "true"}}
    put_policy(kube, "a-bystander", priority=1_000_000, nodeSelector=own)
    with no_traceback():
        await harness.engine.start()
        try:
            await until(lambda: made.is_read(NODE) and made.is_read(BYSTANDER))
            before = made.status(BYSTANDER)
            yield made
            assert made.status(BYSTANDER) == before or made.is_read(BYSTANDER)
            await made.is_working(BYSTANDER)
            entries = [entry["type"] for entry in made.status(BYSTANDER)["history"]]
            assert entries.count("GPUAdded") == len(before["gpus"]) + 1
            assert kube.refused == []
        finally:
            await harness.engine.stop(within=1)


@contextmanager
def no_traceback() -> Iterator[None]:
    """No log line has a traceback."""
    seen: list[logging.LogRecord] = []

    class Tracebacks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info:
                seen.append(record)

    handler = Tracebacks()
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
    assert [(one.getMessage(), repr(one.exc_info and one.exc_info[1])) for one in seen] == []


Edit = Callable[[dict[str, Any]], object]
