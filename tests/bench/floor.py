"""The floors of a cold start: the least that any program does. Prints one JSON line.

The first is an exec in every target pod and nothing else: a WebSocket per pod, 16 at a time, and
the output read to its end. The second (`--writes`) also makes the four writes per node that
GPUInventory and Node labels take, of objects that are there already as the operator wrote them.
The floors do not parse, watch or decide.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import os
import resource
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml

from tests.bench.usage import cpu_seconds

PODS = "/api/v1/namespaces/gpu-operator/pods"
NODES = "/api/v1/nodes"
INVENTORIES = "/apis/gpuid.github.com/v1alpha1/gpuinventories"
COMMAND = "command=nvidia-smi&command=-q&command=-x&stdout=true&stderr=true"
APPLY = "fieldManager=gpuid-operator&force=true&fieldValidation=Ignore"
MERGE_TYPE = "application/merge-patch+json"
APPLY_TYPE = "application/apply-patch+yaml"
ONLY_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"


class Api:
    """A minimal client of the API server."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server

    @classmethod
    @asynccontextmanager
    async def connect(cls, kubeconfig: str) -> AsyncIterator[Api]:
        config = yaml.safe_load(Path(kubeconfig).read_text())  # noqa: ASYNC240
        cluster = config["clusters"][0]["cluster"]
        context = ssl.create_default_context(cafile=cluster["certificate-authority"])
        headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            yield cls(session, cluster["server"])

    async def get(self, path: str) -> list[dict[str, Any]]:
        async with self._session.get(self._server + path) as answer:
            return list(orjson.loads(await answer.read())["items"])

    async def write(self, method: str, path: str, data: bytes, kind: str) -> None:
        accept = "application/json" if method == "DELETE" else ONLY_METADATA
        headers = {"Content-Type": kind, "Accept": accept}
        url = self._server + path
        async with self._session.request(method, url, data=data, headers=headers) as answer:
            said = await answer.read()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {said!r}")

    async def execute(self, pod: str) -> int:
        """Run nvidia-smi in a target pod; return the size of its output in bytes."""
        size = 0
        async with self._session.ws_connect(
            f"{self._server}{PODS}/{pod}/exec?{COMMAND}&container=nvidia-device-plugin",
            protocols=["v5.channel.k8s.io", "v4.channel.k8s.io"],
            compress=0,
            max_msg_size=0,
        ) as socket:
            async for message in socket:
                size += len(message.data)
                if message.data[0] == 3:
                    break
        return size


@dataclass
class Writes:
    """The writes for one node."""

    labels: dict[str, str]
    create: bytes
    first: bytes
    second: bytes

    @classmethod
    def of(cls, inventory: dict[str, Any], labels: dict[str, str]) -> Writes:
        name = {"name": inventory["metadata"]["name"]}
        kind = {key: inventory[key] for key in ("apiVersion", "kind")}
        before = copy.deepcopy(inventory["status"])
        for sink in before.get("sinks", ()):
            sink |= {"deliveredSequence": 0, "pending": before["sequence"]}
        return cls(
            labels,
            orjson.dumps(
                {**kind, "metadata": {**name, "labels": inventory["metadata"]["labels"]}}
                | {"spec": {}}
            ),
            orjson.dumps({**kind, "metadata": name, "status": before}),
            orjson.dumps({**kind, "metadata": name, "status": inventory["status"]}),
        )


async def found(api: Api) -> dict[str, Writes]:
    """The writes of the operator, by node."""
    labels = {
        node["metadata"]["name"]: {
            key: value
            for key, value in node["metadata"]["labels"].items()
            if key.startswith("gpuid.github.com/")
        }
        for node in await api.get(NODES)
    }
    items = await api.get(INVENTORIES)
    return {
        item["metadata"]["name"]: Writes.of(item, labels[item["metadata"]["name"]])
        for item in items
    }


async def undo(api: Api, writes: dict[str, Writes]) -> None:
    """Undo the writes of the operator."""
    await api.write("DELETE", INVENTORIES, b"", "application/json")
    nothing = {
        node: orjson.dumps({"metadata": {"labels": dict.fromkeys(known.labels)}})
        for node, known in writes.items()
    }
    await at_a_time(
        16,
        (api.write("PATCH", f"{NODES}/{node}", body, MERGE_TYPE) for node, body in nothing.items()),
    )


async def at_a_time(count: int, works: Iterable[Awaitable[Any]]) -> None:
    slots = asyncio.Semaphore(count)

    async def one(work: Awaitable[Any]) -> None:
        async with slots:
            await work

    await asyncio.gather(*map(one, works))


async def measure(
    kubeconfig: str, workers: int, *, writing: bool, server: int | None = None
) -> dict[str, float]:
    """Execute nvidia-smi in all target pods, and write. `server` is the API server's pid."""
    async with Api.connect(kubeconfig) as api:
        writes = await found(api) if writing else {}
        if writing:
            await undo(api, writes)
        began, used = time.monotonic(), os.times()
        server_used = cpu_seconds(server) if server else 0.0
        pods = [(pod["metadata"]["name"], pod["spec"]["nodeName"]) for pod in await api.get(PODS)]

        async def read(pod: str, node: str) -> None:
            await api.execute(pod)
            if not writing:
                return
            mine = writes[node]
            await api.write("POST", INVENTORIES, mine.create, "application/json")
            await api.write("PATCH", f"{INVENTORIES}/{node}/status?{APPLY}", mine.first, APPLY_TYPE)
            labels = orjson.dumps({"metadata": {"labels": mine.labels}})
            await api.write("PATCH", f"{NODES}/{node}", labels, MERGE_TYPE)

        await at_a_time(workers, (read(*pod) for pod in pods))
        wall = time.monotonic() - began
        status = f"{INVENTORIES}/{{}}/status?{APPLY}"
        await at_a_time(
            workers,
            (
                api.write("PATCH", status.format(node), mine.second, APPLY_TYPE)
                for node, mine in writes.items()
            ),
        )
        now = os.times()
        settled = time.monotonic() - began
        server_cpu = cpu_seconds(server) - server_used if server else 0.0
    cpu = now.user + now.system - used.user - used.system
    return {
        "nodes": len(pods),
        "writes": 4 * len(writes),
        "wall": wall,
        "settled": settled,
        "cpu": cpu,
        "server_cpu": server_cpu,
        "resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("kubeconfig")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--writes", action="store_true")
    parser.add_argument("--server", type=int, help="pid of the API server, for its CPU time")
    options = parser.parse_args()
    figures = measure(
        options.kubeconfig, options.workers, writing=options.writes, server=options.server
    )
    print(json.dumps(asyncio.run(figures)))
