"""A container is first read when it is ready."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gpuid_operator.api.meta import REQUESTED_AT
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from tests.support import clock
from tests.support.kube import FakeKube
from tests.support.objects import put_inventory, put_pod
from tests.support.smi_fixtures import machine
from tests.unit.engine.reading import ReadBench


@pytest.fixture
def bench(kube: FakeKube) -> ReadBench:
    bench = ReadBench(kube)
    bench.prints(machine("n1"))
    return bench


async def test_the_first_read_waits_until_the_container_is_ready(bench: ReadBench) -> None:
    await bench.node_with_pod(ready=False)
    assert await bench.process("n1") == DEFAULT_TIMINGS.pod_grace
    assert bench.kube.exec.calls == []
    bench.see_pod(put_pod(bench.kube, "n1"))
    await bench.process("n1")
    assert bench.status()["gpuCount"] == 2


async def test_a_container_that_replaces_another_is_read_when_it_is_ready(bench: ReadBench) -> None:
    await bench.node_with_pod()
    await bench.process("n1")
    bench.see_pod(put_pod(bench.kube, "n1", number=2, ready=False))
    due = bench.due("n1")
    assert due is not None
    assert due > clock.now() + timedelta(hours=20)


async def test_a_container_that_is_not_ready_is_read_on_request(bench: ReadBench) -> None:
    await bench.node_with_pod(ready=False)
    bench.inventory_changed(put_inventory(bench.kube, "n1", annotations={REQUESTED_AT: "token-1"}))
    await bench.process("n1")
    assert bench.status()["gpuCount"] == 2
