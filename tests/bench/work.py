"""Counts the operator's work for a new node, instead of timing it: `make bench-work`.

The engine runs on the API server in memory, with one sink that gets changes. Counts are the
difference between a larger and a smaller fleet, per node, so that the start is not in them. They
are the same on every machine. The profile of a cold start is flat: no timing shows a few calls more
in each step. tests/unit/engine/test_work.py keeps the budgets.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import orjson
from rich.console import Console

from gpuid_operator.localcluster.smi import generate
from tests.bench.tables import Table
from tests.support import clock
from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.kube import INVENTORIES, FakeKube
from tests.support.objects import put_node, put_pod, put_quarantine

FEW: Final = 8
MANY: Final = 24
GPUS: Final = 8

_PACKAGE: Final = "gpuid_operator"
_PART: Final = re.compile(rf"/{_PACKAGE}/((?:engine/)?[a-z_]+)")
_VALIDATE: Final = frozenset({"model_validate", "model_validate_json", "validate_python"})
_DUMP: Final = frozenset({"model_dump", "model_dump_json"})
_NAMED: Final = {
    "orjson.loads": "JSON parsed",
    "orjson.dumps": "JSON written",
    "zlib.compress": "compressed",
    "zlib.decompress": "decompressed",
}

_RESOURCES: Final = frozenset({"nodes", "pods", "events", INVENTORIES.rpartition("/")[2]})

Counts = dict[str, float]


class CountingKube(FakeKube):
    """It counts the bytes of bodies in both directions, as JSON."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self.received = 0

    async def request(self, method: str, path: str, *, body: Any = None, **options: Any) -> Any:
        answer = await super().request(method, path, body=body, **options)
        self.sent += 0 if body is None else len(orjson.dumps(body))
        self.received += len(orjson.dumps(answer))
        return answer


class CallCounter:
    """Calls that the package makes, by kind, and the functions of it that are called, by part."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.parts: Counter[str] = Counter()
        self._names: dict[str, str | None] = {}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count in this thread."""
        sys.setprofile(self._event)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            if self._part(frame) is not None:
                name = f"{argument.__module__}.{argument.__name__}"
                if name in _NAMED:
                    self.kinds[_NAMED[name]] += 1
        elif event == "call":
            part = self._part(frame)
            if part is not None:
                self.parts[part] += 1
            elif frame.f_back is not None and self._part(frame.f_back) is not None:
                self._library(frame)

    def _library(self, frame: FrameType) -> None:
        """A call from the package into a library."""
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if "/pydantic/" not in file:
            return
        if name in _VALIDATE or name == "__init__":
            self.kinds["models validated"] += 1
        elif name in _DUMP:
            self.kinds["models dumped"] += 1
        elif name == "model_copy":
            self.kinds["models copied"] += 1

    def _part(self, frame: FrameType) -> str | None:
        file = frame.f_code.co_filename
        if file not in self._names:
            found = _PART.search(file)
            self._names[file] = found[1] if found else None
        return self._names[file]


async def cold_start(
    nodes: int, counter: CallCounter | None = None, *, quarantines: int = 0
) -> CountingKube:
    """Read, write and deliver everything of so many nodes; the cluster that is left.

    `quarantines` are of parts that no node has.
    """
    kube = CountingKube()
    outputs = {f"n{number}": generate("h100", node=f"n{number}") for number in range(nodes)}

    def run(call: ExecCall) -> ExecAnswer:
        if "-x" not in call.command:
            return ExecAnswer(exit_code=1, stderr=b"no such file")
        return ExecAnswer(stdout=outputs[call.pod.removeprefix("plugin-")].encode())

    kube.exec.decide = run
    for name in outputs:
        put_node(kube, name, gpus=GPUS)
        put_pod(kube, name)
    for number in range(quarantines):
        put_quarantine(kube, f"rma-{number}", {"serial": f"of-no-node-{number}"})
    harness = EngineHarness(kube)

    async def work() -> None:
        await harness.engine.start()
        await until(lambda: _settled(kube, nodes))
        await harness.engine.stop(within=1)

    if counter is None:
        await work()
    else:
        with counter.counting():
            await work()
    return kube


def _settled(kube: FakeKube, nodes: int) -> bool:
    bodies = [body for path, body in kube.objects.items() if path.startswith(INVENTORIES)]
    done = [
        {one["type"]: one["status"] for one in body.get("status", {}).get("conditions", ())}
        for body in bodies
    ]
    ready = sum((one.get("Ready"), one.get("Delivered")) == ("True", "True") for one in done)
    return ready == nodes


def count(*, quarantines: int = 0) -> dict[str, Counts]:
    """Counts per new node by group: `requests`, `bytes`, `calls`, `functions`."""
    few, many = (_count(nodes, quarantines) for nodes in (FEW, MANY))
    return {
        group: {
            name: round((many[group][name] - few[group][name]) / (MANY - FEW), 2)
            for name in sorted(many[group])
        }
        for group in many
    }


def _count(nodes: int, quarantines: int) -> dict[str, Counter[str]]:
    counter = CallCounter()
    kube = _run(lambda: cold_start(nodes, counter, quarantines=quarantines))
    requests = Counter(_kind(one.method, one.path) for one in kube.requests)
    requests["exec"] = len(kube.exec.calls)
    return {
        "requests": requests,
        "bytes": Counter(sent=kube.sent, received=kube.received),
        "calls": counter.kinds,
        "functions": counter.parts,
    }


def _kind(method: str, path: str) -> str:
    """The method, and the resource of a path of objects that have no slash in their names."""
    words = path.split("/")
    for position, word in enumerate(words):
        if word in _RESOURCES:
            return f"{method} {'/'.join([word, *words[position + 2 :]])}"
    return f"{method} {path}"


def memory() -> Counts:
    """Bytes per node that the package's own lines hold after a cold start, and their number."""

    def held(nodes: int) -> tuple[float, float]:
        tracemalloc.start()
        try:
            _run(lambda: cold_start(nodes))
            traces = tracemalloc.take_snapshot().filter_traces(
                [
                    tracemalloc.Filter(True, f"*/{_PACKAGE}/*"),
                    tracemalloc.Filter(False, f"*/{_PACKAGE}/localcluster/*"),
                ]
            )
        finally:
            tracemalloc.stop()
        found = traces.statistics("filename")
        return sum(one.size for one in found), sum(one.count for one in found)

    (size, blocks), (more_size, more_blocks) = held(FEW), held(MANY)
    return {
        "bytes held": round((more_size - size) / (MANY - FEW)),
        "blocks held": round((more_blocks - blocks) / (MANY - FEW)),
    }


def _run(work: Callable[[], Any]) -> CountingKube:
    with asyncio.Runner(loop_factory=clock.JumpingLoop) as runner:
        kube: CountingKube = runner.run(work())
        return kube


def main() -> None:
    console = Console(width=100)
    groups = {**count(), "memory": memory()}
    for group, counts in groups.items():
        rows = tuple((name, f"{value:,.2f}") for name, value in counts.items() if value)
        Table(f"{group} per new node of {GPUS} GPUs", ("", "count"), rows).show(console)


if __name__ == "__main__":
    main()
