"""`kubectl gpuid read` on an inventory that is created while it asks for a read."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from gpuid_operator.api.meta import REQUESTED_AT
from gpuid_operator.cli.plugin_clusters import Cluster, Clusters
from gpuid_operator.cli.plugin_read import read
from gpuid_operator.kube.errors import NotFound
from tests.support.clock import run
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path

PATH = inventory_path("n")
READY = {
    "type": "Ready",
    "status": "True",
    "reason": "ReadOK",
    "message": "",
    "lastTransitionTime": "2026-06-07T10:30:45Z",
}


async def requested(kube: FakeKube) -> str:
    """Wait for a request of a read; its token."""
    while True:
        meta = kube.objects[PATH]["metadata"]
        if token := meta.get("annotations", {}).get(REQUESTED_AT):
            return str(token)
        await asyncio.sleep(0.1)


async def read_as_requested(kube: FakeKube) -> None:
    """What the operator does with a request."""
    token = await requested(kube)
    status = {"state": "Present", "conditions": [READY], "lastHandledRequest": token}
    kube.change(PATH, lambda body: body.update(status=status))


async def replace(kube: FakeKube) -> None:
    """Delete the inventory once a read of it was requested, and create another one."""
    await requested(kube)
    kube.remove(PATH)
    kube.put(PATH, {"spec": {}})
    await read_as_requested(kube)


async def ask(kube: FakeKube, operator: Coroutine[Any, Any, None]) -> bool:
    """The result of the command, while the operator does its part."""
    clusters = Clusters(several=False)
    clusters.reached.append(Cluster("c", kube))
    task = asyncio.create_task(operator)
    try:
        return await read(clusters, ["n"], timeout=2.0, output="table")
    finally:
        task.cancel()


def test_an_inventory_that_is_created_just_after_the_request_is_read_too() -> None:
    async def work() -> None:
        kube = FakeKube()
        kube.put(PATH, {"spec": {}})
        # The first request comes too early.
        error = NotFound("no", status=404, reason="NotFound", server_message="no")
        kube.fail("PATCH", PATH, error)
        assert await ask(kube, read_as_requested(kube))

    run(work())


def test_an_inventory_that_is_replaced_after_the_request_is_read_too() -> None:
    async def work() -> None:
        kube = FakeKube()
        kube.put(PATH, {"spec": {}})
        assert await ask(kube, replace(kube))

    run(work())
