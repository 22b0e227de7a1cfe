"""The process from inside, with Kopf in its thread: standing by, leading, the end by SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import warnings
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.credentials import Credentials
from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.operator.process import Process
from gpuid_operator.operator.settings import Settings
from gpuid_operator.operator.wiring import Wiring
from gpuid_operator.telemetry.metrics import Metrics
from tests.support.kopf_api import KopfApi
from tests.support.kube import FakeKube

LEASE = "/apis/coordination.k8s.io/v1/namespaces/gpuid/leases/gpuid-operator"
ELECTION = {
    "LEADER_ELECTION": "true",
    "LEASE_RETRY_PERIOD": "20ms",
    "POD_NAME": "first",
}


class Cluster(FakeKube):
    """Objects in memory for the engine; Kopf watches `api`."""

    def __init__(self, api: KopfApi) -> None:
        super().__init__()
        self.api = api
        self.put("/api/v1/namespaces/kube-system", {"metadata": {"uid": "cluster-uid"}})

    async def credentials(self) -> Credentials:
        return self.api.credentials

    def holder(self) -> str:
        return str(self.objects[LEASE]["spec"]["holderIdentity"]).partition("_")[0]


class Running:
    """The process as a task, and its server."""

    def __init__(self, cluster: Cluster, variables: Mapping[str, str]) -> None:
        self.cluster = cluster
        (self.port,) = free_ports(1)
        settings = Settings.load({"SERVER_PORT": str(self.port), **variables})
        wiring = Wiring(
            settings=settings, namespace="gpuid", metrics=Metrics(), timings=DEFAULT_TIMINGS
        )
        self.task = asyncio.create_task(Process(wiring).run())

    async def get(self, path: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}{path}") as answer,
        ):
            return answer.status, await answer.text()

    async def says(self, path: str, holds: Callable[[int, str], bool]) -> None:
        """Wait until the answer fits."""
        async with asyncio.timeout(20):
            while True:
                try:
                    status, text = await self.get(path)
                except aiohttp.ClientConnectionError:
                    status, text = 0, ""
                if holds(status, text):
                    return
                await asyncio.sleep(0.01)

    async def is_ready(self, reason: str) -> None:
        await self.says("/readyz", lambda status, text: (status, text) == (200, f"{reason}\n"))

    async def terminate(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(20):
            await self.task


def tasks(metrics: str) -> float:
    (line,) = [one for one in metrics.splitlines() if one.startswith("gpuid_asyncio_tasks ")]
    return float(line.split()[1])


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch,
    variables: Mapping[str, str],
    lease: Mapping[str, Any] | None = None,
) -> AsyncIterator[Running]:
    async with KopfApi().serve() as api:
        cluster = Cluster(api)
        if lease is not None:
            cluster.put(LEASE, {"spec": lease})

        async def connect(**_: Any) -> KubeClient:
            return cluster

        monkeypatch.setattr(KubeClient, "connect", connect)
        with warnings.catch_warnings():
            # The end of Kopf's thread leaves its sessions to the garbage collector.
            warnings.simplefilter("ignore", ResourceWarning)
            process = Running(cluster, variables)
            yield process
            if not process.task.done():
                await process.terminate()
            gc.collect()


async def test_it_leads_at_once_without_leader_election(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(monkeypatch, {}) as process:
        await process.is_ready("leading")
        await process.says("/metrics", lambda _, text: "gpuid_leader 1.0" in text)
        # More than the loop of the test alone has.
        own = len(asyncio.all_tasks())
        await process.says("/metrics", lambda _, text: tasks(text) > own + 1)
        await process.says("/healthz", lambda status, _: status == 200)
        watched = process.cluster.api.requests
        await process.says("/healthz", lambda *_: any("watch" in one.query for one in watched))
        await process.terminate()
    assert LEASE not in process.cluster.objects
    assert process.cluster.asked("GET", "/namespaces/kube-system$")


@pytest.mark.parametrize("variables", [{"CLUSTER_NAME": "prod"}, {"COMMAND": "true"}])
async def test_a_named_cluster_and_a_check_runner_do_not_read_kube_system(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    async with running(monkeypatch, variables) as process:
        await process.is_ready("leading")
    assert not process.cluster.asked("GET", "/namespaces/kube-system$")


async def test_a_standby_is_ready_and_leads_once_the_lease_is_released(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = {"holderIdentity": "other", "leaseDurationSeconds": 15}
    async with running(monkeypatch, ELECTION, held) as process:
        await process.is_ready("standing by")
        await process.says("/metrics", lambda _, text: "gpuid_leader 0.0" in text)
        assert process.cluster.holder() == "other"
        assert not process.cluster.api.requests
        process.cluster.change(LEASE, lambda body: body["spec"].update(holderIdentity=""))
        await process.is_ready("leading")
        assert process.cluster.holder() == "first"
        await process.says("/metrics", lambda _, text: "gpuid_leader 1.0" in text)
        await process.terminate()
    assert process.cluster.holder() == ""


async def test_sigterm_ends_a_standby_that_never_led(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"holderIdentity": "other", "leaseDurationSeconds": 15}
    async with running(monkeypatch, ELECTION, held) as process:
        await process.is_ready("standing by")
        await process.terminate()
    assert process.cluster.holder() == "other"
