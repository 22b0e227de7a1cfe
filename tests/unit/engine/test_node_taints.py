"""The taint on nodes with a GPU in quarantine: ours alone, guarded, and never more than asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gpuid_operator.api.meta import QUARANTINE_TAINT
from gpuid_operator.kube.errors import NotFound
from gpuid_operator.plan.quarantine_taints import NodeLimit
from tests.support import clock
from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, Request, forbidden
from tests.support.objects import (
    inventory_path,
    node_path,
    pod_path,
    put_node,
    put_pod,
    put_quarantine,
    quarantine_path,
)
from tests.support.smi_fixtures import machine, serials
from tests.unit.engine.test_quarantines import condition, events, later, quiet, ready, status

NODES = [f"n{number}" for number in range(1, 6)]
XML = {name: machine(name) for name in NODES}
FOREIGN = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
LOOK_ALIKE = {"key": QUARANTINE_TAINT, "value": "mine", "effect": "NoExecute"}
TAINTS = [FOREIGN, LOOK_ALIKE]


def part(node: str) -> dict[str, str]:
    return {"serial": serials(XML[node])[0]}


def ours(value: str) -> dict[str, str]:
    return {"key": QUARANTINE_TAINT, "value": value, "effect": "NoSchedule"}


def taints(kube: FakeKube, node: str = "n1") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kube.objects[node_path(node)]["spec"].get("taints", [])
    return found


def tainted(kube: FakeKube) -> list[str]:
    return [name for name in NODES if any(ours_in(kube, name))]


def ours_in(kube: FakeKube, node: str) -> list[bool]:
    return [
        taint["key"] == QUARANTINE_TAINT and taint["effect"] == "NoSchedule"
        for taint in taints(kube, node)
    ]


def taint_writes(kube: FakeKube) -> list[Request]:
    return [one for one in kube.asked("PATCH", "/nodes/") if "taints" in one.body.get("spec", {})]


@pytest.fixture
def nodes(kube: FakeKube) -> None:
    kube.exec.decide = lambda call: ExecAnswer(
        stdout=XML[call.pod.removeprefix("plugin-")].encode()
    )
    for name in NODES:
        body = put_node(kube, name)
        body["spec"]["taints"] = TAINTS
        kube.put(node_path(name), body)
        put_pod(kube, name)


async def started(kube: FakeKube, **options: Any) -> EngineHarness:
    harness = EngineHarness(kube, **{"quarantine_taints": True, **options})
    await harness.engine.start()
    await until(
        lambda: all(
            [sink["pending"] for sink in status(kube, name).get("sinks", [])] == [0]
            for name in NODES
        )
    )
    return harness


@pytest.fixture
async def harness(kube: FakeKube, nodes: None) -> AsyncIterator[EngineHarness]:
    """An engine that has read all nodes and may taint two of them."""
    made = await started(kube, quarantine_max_nodes=NodeLimit(2, percent=False))
    yield made
    await made.engine.stop(within=10)


async def test_a_node_gets_the_taint_beside_those_of_others(
    kube: FakeKube, harness: EngineHarness
) -> None:
    harness.quarantine("rma", part("n1"), action="Taint")
    await until(lambda: taints(kube) == [*TAINTS, ours("rma")], within=2)
    assert tainted(kube) == ["n1"]
    await until(lambda: ready(kube) == ("True", "InForce"))
    assert len(taint_writes(kube)) == 1


async def test_only_that_taint_goes_with_the_quarantine(
    kube: FakeKube, harness: EngineHarness
) -> None:
    harness.quarantine("rma", part("n1"), action="Taint")
    await until(lambda: tainted(kube) == ["n1"])
    added = {"key": "example.com/maintenance", "effect": "NoSchedule"}
    kube.change(node_path("n1"), lambda body: body["spec"]["taints"].append(added))
    harness.lift("rma")
    await until(lambda: taints(kube) == [*TAINTS, added])


async def test_a_node_without_other_taints_ends_without_any(
    kube: FakeKube, harness: EngineHarness
) -> None:
    harness.quarantine("rma", part("n1"), action="Taint")
    await until(lambda: tainted(kube) == ["n1"])
    kube.change(node_path("n1"), lambda body: body["spec"].update(taints=[ours("rma")]))
    harness.lift("rma")
    await until(lambda: "taints" not in kube.objects[node_path("n1")]["spec"])


async def test_the_action_report_asks_for_none(kube: FakeKube, harness: EngineHarness) -> None:
    harness.quarantine("rma", part("n1"), action="Taint")
    await until(lambda: tainted(kube) == ["n1"])
    harness.quarantine("rma", part("n1"), action="Report")
    await until(lambda: tainted(kube) == [])
    harness.quarantine("other", part("n2"))
    await until(lambda: ready(kube, "other") == ("True", "InForce"))
    assert tainted(kube) == []


async def test_another_quarantine_that_asks_takes_the_taint_over(
    kube: FakeKube, harness: EngineHarness
) -> None:
    harness.quarantine("b", part("n1"), action="Taint")
    await until(lambda: taints(kube)[-1] == ours("b"))
    harness.quarantine("a", part("n1"), action="Taint")
    await until(lambda: ready(kube, "a") == ("True", "InForce"))
    assert taints(kube)[-1] == ours("b")
    harness.lift("b")
    await until(lambda: taints(kube) == [*TAINTS, ours("a")])
    harness.lift("a")
    await until(lambda: taints(kube) == TAINTS)


async def test_the_taint_goes_when_the_quarantine_ends(
    kube: FakeKube, harness: EngineHarness
) -> None:
    harness.quarantine("rma", part("n1"), action="Taint", until=later(600))
    await until(lambda: tainted(kube) == ["n1"])
    await until(lambda: tainted(kube) == [], within=603)


async def test_the_taint_goes_when_the_part_has_left(
    kube: FakeKube, harness: EngineHarness
) -> None:
    harness.quarantine("rma", part("n1"), action="Taint")
    await until(lambda: tainted(kube) == ["n1"])
    kube.exec.decide = lambda call: ExecAnswer(stdout=machine("spare").encode())
    harness.pod_event(put_pod(kube, "n1", number=2))
    await until(lambda: tainted(kube) == [])


async def test_a_taint_that_a_user_removes_is_back_after_the_next_resync(
    kube: FakeKube, harness: EngineHarness
) -> None:
    harness.quarantine("rma", part("n1"), action="Taint")
    await until(lambda: tainted(kube) == ["n1"])
    kube.change(node_path("n1"), lambda body: body["spec"].update(taints=TAINTS))
    await until(lambda: tainted(kube) == ["n1"])
    assert len(taint_writes(kube)) == 2


async def test_the_node_is_fetched_first_where_a_resync_listed_only_its_metadata(
    kube: FakeKube, harness: EngineHarness
) -> None:
    """A patch replaces the taints of others, too, so they must be current beyond doubt."""

    def beat(body: dict[str, Any]) -> None:
        body["status"]["conditions"] = [{"lastHeartbeatTime": str(clock.now())}]

    for _ in range(2):  # the first list after the cluster was made fetches the Node
        kube.change(node_path("n1"), beat)
        await quiet(kube, 700)
    before = len(kube.asked("GET", "/nodes/n1$"))
    harness.quarantine("rma", part("n1"), action="Taint")
    await until(lambda: taints(kube) == [*TAINTS, ours("rma")], within=2)
    assert len(kube.asked("GET", "/nodes/n1$")) == before + 1
    assert len(taint_writes(kube)) == 1


class TestGuard:
    """Never more nodes than QUARANTINE_MAX_NODES."""

    async def test_beyond_it_taints_are_halted_with_one_event(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", *map(part, NODES[:2]), action="Taint")
        await until(lambda: tainted(kube) == ["n1", "n2"])
        harness.quarantine("more", *map(part, NODES[2:]), action="Taint")
        await until(lambda: ready(kube, "more") == ("False", "TaintsHalted"))
        found = condition(kube, quarantine_path("more"), "Ready")
        assert found is not None
        assert found[2] == (
            "no taint on n3, n4, n5: nodes with the taint: 2, and QUARANTINE_MAX_NODES allows 2;"
            " increase it, or lift other quarantines"
        )
        assert ready(kube) == ("True", "InForce")
        await asyncio.sleep(3 * 3600)
        assert tainted(kube) == ["n1", "n2"]
        [event] = events(kube, "TaintsHalted")
        assert event["type"] == "Warning"
        assert event["involvedObject"]["kind"] == "GPUQuarantine"
        assert event["involvedObject"]["name"] == "more"
        assert event["message"] == found[2]

    async def test_a_restart_tells_nothing_again(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", *map(part, NODES), action="Taint")
        await until(lambda: ready(kube) == ("False", "TaintsHalted"))
        await until(lambda: len(tainted(kube)) == 2)
        await until(lambda: len(events(kube, "TaintsHalted")) == 1)
        await harness.engine.stop(within=10)
        second = await started(kube, quarantine_max_nodes=NodeLimit(2, percent=False))
        await quiet(kube)
        assert len(events(kube, "TaintsHalted")) == 1
        await second.engine.stop(within=10)

    async def test_room_is_used_as_soon_as_there_is_some(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("old", *map(part, NODES[:2]), action="Taint")
        await until(lambda: tainted(kube) == ["n1", "n2"])
        harness.quarantine("new", *map(part, NODES[2:4]), action="Taint")
        await until(lambda: ready(kube, "new") == ("False", "TaintsHalted"))
        most = 2

        harness.lift("old")
        await until(lambda: tainted(kube) == ["n3", "n4"], within=5)
        await until(lambda: ready(kube, "new") == ("True", "InForce"))
        held = 0
        for request in taint_writes(kube):
            values = [one.get("value") for one in request.body["spec"]["taints"] or ()]
            held += 1 if {"old", "new"} & set(values) else -1
            assert held <= most

    @pytest.mark.usefixtures("nodes")
    async def test_a_percentage_counts_the_nodes_that_will_have_an_inventory(
        self, kube: FakeKube
    ) -> None:
        put_quarantine(kube, "rma", *map(part, NODES[:2]), action="Taint")
        made = await started(kube, quarantine_max_nodes=NodeLimit(40, percent=True), workers=1)
        await until(lambda: tainted(kube) == ["n1", "n2"])
        await until(lambda: ready(kube) == ("True", "InForce"))
        assert events(kube, "TaintsHalted") == []
        await made.engine.stop(within=10)


class TestSettings:
    """QUARANTINE_TAINTS is off, or was switched off."""

    @pytest.mark.usefixtures("nodes")
    async def test_without_it_no_node_is_tainted_and_ready_says_so(self, kube: FakeKube) -> None:
        made = await started(kube, quarantine_taints=False)
        made.quarantine("rma", part("n1"), action="Taint")
        await until(lambda: ready(kube) == ("False", "TaintsDisabled"))
        assert status(kube)["gpus"][0]["quarantines"] == ["rma"]
        assert taint_writes(kube) == []
        await made.engine.stop(within=10)

    async def test_ours_are_removed_when_it_was_switched_off(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", *map(part, NODES[:2]), action="Taint")
        await until(lambda: tainted(kube) == ["n1", "n2"])
        await harness.engine.stop(within=10)
        second = await started(kube, quarantine_taints=False)
        await until(lambda: tainted(kube) == [])
        assert taints(kube) == TAINTS
        await until(lambda: ready(kube) == ("False", "TaintsDisabled"))
        await second.engine.stop(within=10)


class TestLeftAlone:
    """Nodes about which nothing is known, or nothing may be written."""

    async def test_a_suspended_node_keeps_what_it_has(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", part("n1"), action="Taint")
        await until(lambda: tainted(kube) == ["n1"])
        for name in ("n1", "n2"):
            kube.change(inventory_path(name), lambda body: body["spec"].update(suspend=True))
            await until(lambda name=name: status(kube, name)["observedGeneration"] == 2)  # type: ignore[misc]
        harness.lift("rma")
        harness.quarantine("other", part("n2"), action="Taint")
        await until(lambda: ready(kube, "other") == ("True", "InForce"))
        found = condition(kube, quarantine_path("other"), "Ready")
        assert found is not None
        assert found[2] == "no taint on n2: suspended or left alone"
        assert tainted(kube) == ["n1"]
        for name in ("n1", "n2"):
            kube.change(inventory_path(name), lambda body: body["spec"].update(suspend=False))
        await until(lambda: tainted(kube) == ["n2"])

    async def test_a_quarantine_that_cannot_be_parsed_keeps_its_taint(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", part("n1"), action="Taint")
        await until(lambda: tainted(kube) == ["n1"])
        harness.quarantine("rma", part("n1"), action="Evict")
        harness.quarantine("other", part("n2"), action="Taint")
        await until(lambda: tainted(kube) == ["n1", "n2"])
        harness.lift("rma")
        await until(lambda: tainted(kube) == ["n2"])

    async def test_a_node_whose_inventory_is_gone_keeps_it_while_the_quarantine_asks(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", part("n1"), action="Taint")
        await until(lambda: tainted(kube) == ["n1"])
        body = kube.objects[pod_path("plugin-n1")]
        kube.remove(pod_path("plugin-n1"))
        harness.pod_event(body, deleted=True)
        kube.change(node_path("n1"), lambda found: found["status"]["capacity"].clear())
        kube.remove(inventory_path("n1"))
        await asyncio.sleep(3600)
        assert inventory_path("n1") not in kube.objects
        assert tainted(kube) == ["n1"]
        harness.lift("rma")
        await until(lambda: tainted(kube) == [])

    async def test_a_departed_node_is_no_longer_written(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", part("n1"), action="Taint")
        await until(lambda: tainted(kube) == ["n1"])
        kube.remove(node_path("n1"))
        harness.quarantine("other", part("n2"), action="Taint")
        body = kube.objects[pod_path("plugin-n1")]
        kube.remove(pod_path("plugin-n1"))
        harness.pod_event(body, deleted=True)
        await until(lambda: status(kube)["state"] == "Departed")
        harness.quarantine("third", part("n3"), action="Taint")
        await until(lambda: [name for name in NODES[1:] if any(ours_in(kube, name))] == NODES[1:3])


class TestWrites:
    """Patches that meet another version of the Node, or fail."""

    async def test_a_conflict_is_resolved_on_the_latest_taints(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        added = {"key": "example.com/maintenance", "effect": "NoExecute", "timeAdded": "t"}
        kube.change(node_path("n1"), lambda body: body["spec"]["taints"].append(added))
        harness.quarantine("rma", part("n1"), action="Taint")
        await until(lambda: taints(kube) == [*TAINTS, added, ours("rma")], within=2)
        assert len(taint_writes(kube)) == 2

    async def test_a_failure_is_logged_and_tried_again(
        self, kube: FakeKube, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        kube.fail("PATCH", "/nodes/n1$", forbidden(), times=2)
        harness.quarantine("rma", *map(part, NODES[:2]), action="Taint")
        await until(lambda: tainted(kube) == ["n2"], within=2)
        await until(lambda: tainted(kube) == ["n1", "n2"], within=60)
        assert caplog.text.count("failed to write taint of node") == 2

    async def test_a_node_that_is_gone_is_forgotten(
        self, kube: FakeKube, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        gone = NotFound("gone", status=404, reason="NotFound", server_message="gone")
        fault = kube.fail("PATCH", "/nodes/n1$", gone)
        harness.quarantine("rma", part("n1"), action="Taint")
        await fault.met.wait()
        await asyncio.sleep(5)
        assert "failed to write taint" not in caplog.text
        assert tainted(kube) == []
        await until(lambda: tainted(kube) == ["n1"])  # the resync finds it
