"""The operator waits for both CRDs, and says which of them is missing."""

from __future__ import annotations

import asyncio

import pytest

from gpuid_operator.api.meta import INVENTORY_PLURAL, POLICY_PLURAL
from gpuid_operator.operator.crds import missing_crds, wait_for_crds
from gpuid_operator.operator.health import Health
from tests.support.kube import FakeKube, unreachable


async def test_it_returns_at_once_where_both_are_served(kube: FakeKube) -> None:
    health = Health()
    await wait_for_crds(kube, health)
    assert asyncio.get_running_loop().time() == 0
    assert health.ready == (False, "starting")


async def test_it_waits_until_both_are_served_and_logs_each_change(
    kube: FakeKube, caplog: pytest.LogCaptureFixture
) -> None:
    health = Health()
    kube.served.clear()
    waiting = asyncio.create_task(wait_for_crds(kube, health))
    await asyncio.sleep(9)
    _, reason = health.ready
    assert reason == (
        f"waiting for the CRDs: {INVENTORY_PLURAL}, {POLICY_PLURAL} not served;"
        " install them with `kubectl apply -f crds/` or the chart"
    )
    kube.served.add(INVENTORY_PLURAL)
    await asyncio.sleep(9)
    assert not waiting.done()
    assert INVENTORY_PLURAL not in health.ready[1]
    kube.served.add(POLICY_PLURAL)
    await waiting
    missing = [record.__dict__["fields"]["missing"] for record in caplog.records]
    assert missing == [f"{INVENTORY_PLURAL}, {POLICY_PLURAL}", POLICY_PLURAL]
    assert all(record.message.startswith("waiting for the CRDs; ") for record in caplog.records)


async def test_an_api_server_that_does_not_answer_is_asked_again(kube: FakeKube) -> None:
    health = Health()
    kube.fail("GET", "/apis/", unreachable(), times=2)
    assert await missing_crds(kube, health) == frozenset()
    assert health.ready == (
        False,
        "failed to look up the CRDs: no answer from the API server",
    )
