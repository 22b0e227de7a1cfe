"""Quarantines in the engine: marks within two seconds, told once, and the status of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest

from gpuid_operator.api.meta import QUARANTINE_PLURAL
from gpuid_operator.api.quarantine import Quarantine, QuarantineStatus
from gpuid_operator.api.values import format_time
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.engine.writing import quarantine_status as quarantine_statuses
from gpuid_operator.plan.quarantine_status import quarantine_status
from tests.support import clock
from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import EVENTS, QUARANTINES, FakeKube, Request, forbidden, server_error
from tests.support.objects import (
    UNKNOWN_SINK,
    inventory_path,
    node_path,
    pod_path,
    put_inventory,
    put_node,
    put_pod,
    put_quarantine,
    quarantine_path,
)
from tests.support.smi_fixtures import machine, serials, swapped, uuids

AT_ONCE = 2.0
"""Seconds within which a mark must be there."""
XML = {name: machine(name) for name in ("n1", "n2", "spare")}
CONDEMNED = serials(XML["n1"])[0]
PART = {"serial": CONDEMNED}
ANY_STATUS = f"/{QUARANTINE_PLURAL}/[^/]+/status$"


@pytest.fixture
def nodes(kube: FakeKube) -> dict[str, str]:
    """The output of nvidia-smi on each node; a test replaces it."""
    hardware = {name: XML[name] for name in ("n1", "n2")}
    kube.exec.decide = lambda call: ExecAnswer(
        stdout=hardware[call.pod.removeprefix("plugin-")].encode()
    )
    for name in hardware:
        put_node(kube, name)
        put_pod(kube, name)
    return hardware


@pytest.fixture
async def harness(kube: FakeKube, nodes: dict[str, str]) -> AsyncIterator[EngineHarness]:
    """An engine that has read both nodes."""
    made = EngineHarness(kube)
    await made.engine.start()
    await until(lambda: all(delivered(kube, name) for name in nodes))
    yield made
    await made.engine.stop(within=10)


def status(kube: FakeKube, node: str = "n1") -> dict[str, Any]:
    found: dict[str, Any] = kube.objects.get(inventory_path(node), {}).get("status", {})
    return found


def delivered(kube: FakeKube, node: str) -> bool:
    return [sink["pending"] for sink in status(kube, node).get("sinks", [])] == [0]


def marks(kube: FakeKube, node: str = "n1") -> list[list[str]]:
    return [gpu.get("quarantines", []) for gpu in status(kube, node).get("gpus", [])]


def told(kube: FakeKube, node: str = "n1") -> list[tuple[str, str]]:
    """The entries about quarantine: type and name."""
    return [
        (entry["type"], entry.get("to") or entry.get("from"))
        for entry in status(kube, node).get("history", [])
        if entry["type"] in ("GPUQuarantined", "GPUReleased")
    ]


def condition(kube: FakeKube, path: str, kind: str) -> tuple[str, str, str] | None:
    for found in kube.objects[path].get("status", {}).get("conditions", []):
        if found["type"] == kind:
            return found["status"], found["reason"], found["message"]
    return None


def node_taints(kube: FakeKube, node: str = "n1") -> list[str]:
    """The quarantines that the taints of a node name."""
    taints = kube.objects[node_path(node)]["spec"].get("taints") or []
    return [taint["value"] for taint in taints]


def quarantined(kube: FakeKube, node: str = "n1") -> tuple[str, str] | None:
    found = condition(kube, inventory_path(node), "Quarantined")
    return found[:2] if found else None


def quarantine(kube: FakeKube, name: str = "rma") -> dict[str, Any]:
    found: dict[str, Any] = kube.objects[quarantine_path(name)].get("status", {})
    return found


def events(kube: FakeKube, reason: str) -> list[dict[str, Any]]:
    return [
        body
        for path, body in kube.objects.items()
        if path.startswith(EVENTS) and body["reason"] == reason
    ]


def writes(kube: FakeKube) -> list[Request]:
    return [request for request in kube.requests if request.method not in ("GET", "WATCH")]


async def quiet(kube: FakeKube, seconds: float = 3600.0) -> None:
    """Nothing is written in this time."""
    before = len(writes(kube))
    await asyncio.sleep(seconds)
    assert writes(kube)[before:] == []


def later(seconds: float) -> str:
    return format_time(clock.now() + timedelta(seconds=seconds))


class TestChanges:
    """A quarantine is created, changed and deleted."""

    async def test_a_new_quarantine_marks_the_part_and_says_so_everywhere(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.records.clear()
        harness.quarantine("rma", PART, reason="Xid 79 three times")
        await until(lambda: marks(kube) == [["rma"], []], within=AT_ONCE)
        assert told(kube) == [("GPUQuarantined", "rma")]
        assert quarantined(kube) == ("True", "Quarantined")
        await until(lambda: delivered(kube, "n1"))
        [record] = harness.records
        assert (record["event"], record["gpu"], record["to"]) == (
            "GPUQuarantined",
            CONDEMNED,
            "rma",
        )
        [event] = events(kube, "GPUQuarantined")
        assert event["type"] == "Warning"
        assert "quarantine rma: Xid 79 three times" in event["message"]
        assert event["involvedObject"]["name"] == "n1"
        content = harness.metrics.render()[1].decode()
        uuid = uuids(XML["n1"])[0]
        labels = f'node="n1",uuid="{uuid}",serial="{CONDEMNED}",quarantine="rma"'
        assert f"gpuid_gpu_quarantined{{{labels}}} 1.0" in content
        assert marks(kube, "n2") == [[], []]
        assert quarantined(kube, "n2") is None

    async def test_a_read_is_not_needed(self, kube: FakeKube, harness: EngineHarness) -> None:
        calls = len(kube.exec.calls)
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []])
        assert len(kube.exec.calls) == calls

    async def test_a_deleted_quarantine_releases(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []])
        harness.lift("rma")
        await until(lambda: marks(kube) == [[], []], within=AT_ONCE)
        assert told(kube) == [("GPUQuarantined", "rma"), ("GPUReleased", "rma")]
        assert quarantined(kube) == ("False", "Released")
        await until(lambda: events(kube, "GPUReleased"))
        assert events(kube, "GPUReleased")[0]["type"] == "Normal"
        assert "gpuid_gpu_quarantined{" not in harness.metrics.render()[1].decode()
        await until(lambda: delivered(kube, "n1"))
        await quiet(kube)

    async def test_other_parts_move_the_mark(self, kube: FakeKube, harness: EngineHarness) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []])
        harness.quarantine("rma", {"uuid": uuids(XML["n2"])[1]})
        await until(lambda: marks(kube, "n2") == [[], ["rma"]], within=AT_ONCE)
        await until(lambda: marks(kube) == [[], []], within=AT_ONCE)

    async def test_a_new_reason_is_shown_and_told_to_nobody(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []])
        harness.quarantine("rma", PART, reason="row remap failed")

        def shown() -> bool:
            found = condition(kube, inventory_path("n1"), "Quarantined")
            return found is not None and "row remap failed" in found[2]

        await until(shown, within=AT_ONCE)
        assert told(kube) == [("GPUQuarantined", "rma")]

    async def test_until_ends_it(self, kube: FakeKube, harness: EngineHarness) -> None:
        harness.quarantine("rma", PART, until=later(5400))
        await until(lambda: marks(kube) == [["rma"], []])
        await asyncio.sleep(5390)
        assert marks(kube) == [["rma"], []]
        await until(lambda: marks(kube) == [[], []], within=10 + AT_ONCE)
        assert told(kube) == [("GPUQuarantined", "rma"), ("GPUReleased", "rma")]
        await until(lambda: ready(kube) == ("False", "Expired"), within=AT_ONCE)
        assert (quarantine(kube)["matchCount"], present(kube)) == (0, ("False", "NoPartPresent"))

    async def test_a_later_until_takes_it_back(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", PART, until=later(-1))
        await until(lambda: ready(kube) == ("False", "Expired"))
        assert told(kube) == []
        harness.quarantine("rma", PART, until=later(3600))
        await until(lambda: marks(kube) == [["rma"], []], within=AT_ONCE)
        await until(lambda: ready(kube) == ("True", "InForce"))

    @pytest.mark.parametrize("off", [timedelta(days=400), timedelta(seconds=61)])
    async def test_a_clock_that_is_ahead_ends_none(
        self,
        kube: FakeKube,
        nodes: dict[str, str],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        off: timedelta,
    ) -> None:
        harness = EngineHarness(kube, quarantine_taints=True)
        await harness.engine.start()
        await until(lambda: all(delivered(kube, name) for name in nodes))
        harness.quarantine("rma", PART, until=later(1000), action="Taint")
        await until(lambda: node_taints(kube) == ["rma"] and delivered(kube, "n1"))
        await asyncio.sleep(930)
        told_before = told(kube)
        with monkeypatch.context() as patch:
            patch.setattr(clock, "START", clock.START + off)
            # Also a read, and the look at all nodes, leave the mark.
            harness.pod_event(put_pod(kube, "n1", number=2))
            harness.engine.quarantines.recheck()
            await asyncio.sleep(30)
            assert (marks(kube), node_taints(kube)) == ([["rma"], []], ["rma"])
            assert ready(kube) == ("True", "InForce")
            # It ends by the API server's clock.
            await until(lambda: marks(kube) == [[], []], within=60)
        assert caplog.text.count("clock differs from the API server's") == 1
        await until(lambda: ready(kube) == ("False", "Expired") and node_taints(kube) == [])
        assert told(kube) == [*told_before, ("GPUReleased", "rma")]
        await harness.engine.stop(within=10)

    @pytest.mark.parametrize("off", [timedelta(days=-400), timedelta(seconds=-59)])
    async def test_a_clock_that_is_behind_brings_none_back(
        self,
        kube: FakeKube,
        harness: EngineHarness,
        monkeypatch: pytest.MonkeyPatch,
        off: timedelta,
    ) -> None:
        harness.quarantine("rma", PART, until=later(10))
        await until(lambda: marks(kube) == [["rma"], []])
        await until(lambda: ready(kube) == ("False", "Expired"))
        monkeypatch.setattr(clock, "START", clock.START + off)
        harness.engine.quarantines.recheck()
        await asyncio.sleep(30)
        assert (marks(kube), ready(kube)) == ([[], []], ("False", "Expired"))
        assert told(kube) == [("GPUQuarantined", "rma"), ("GPUReleased", "rma")]

    async def test_a_step_of_the_only_clock_is_noticed_within_a_minute(
        self, kube: FakeKube, harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FakeKube, "server_time", None)
        right = clock.START
        end = later(300)
        monkeypatch.setattr(clock, "START", right - timedelta(days=1))
        harness.quarantine("rma", PART, until=end)
        await until(lambda: marks(kube) == [["rma"], []])
        await asyncio.sleep(400)
        assert marks(kube) == [["rma"], []]
        monkeypatch.setattr(clock, "START", right)
        await until(lambda: marks(kube) == [[], []], within=60 + AT_ONCE)

    async def test_a_node_whose_read_hangs_is_marked_all_the_same(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        kube.exec.decide = lambda _: ExecAnswer(hang=True)
        harness.pod_event(put_pod(kube, "n1", number=2))
        await until(lambda: kube.exec.running == 1)
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []], within=AT_ONCE)
        assert kube.exec.running == 1

    async def test_a_suspended_node_is_marked(self, kube: FakeKube, harness: EngineHarness) -> None:
        kube.change(inventory_path("n1"), lambda body: body["spec"].update(suspend=True))
        await until(lambda: status(kube)["observedGeneration"] == 2)
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []], within=AT_ONCE)

    async def test_many_at_once_share_their_writes(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        before = len(kube.asked("PATCH", "/n1/status$"))
        for number in range(300):
            harness.quarantine(f"q{number:03}", {"serial": f"other-{number}"}, PART)
        await until(lambda: len(marks(kube)[0]) == 8, within=AT_ONCE)
        await until(lambda: all("conditions" in quarantine(kube, f"q{n:03}") for n in range(300)))
        await until(lambda: delivered(kube, "n1"))
        assert len(kube.asked("PATCH", "/n1/status$")) - before <= 4


def ready(kube: FakeKube, name: str = "rma") -> tuple[str, str] | None:
    found = condition(kube, quarantine_path(name), "Ready")
    return found[:2] if found else None


def present(kube: FakeKube, name: str = "rma") -> tuple[str, str] | None:
    found = condition(kube, quarantine_path(name), "Present")
    return found[:2] if found else None


class TestParts:
    """A part in quarantine comes and goes."""

    async def test_one_that_is_swapped_from_node_to_node_is_marked_with_its_read(
        self, kube: FakeKube, harness: EngineHarness, nodes: dict[str, str]
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: matches(kube) == [("n1", CONDEMNED)])
        nodes["n1"], nodes["n2"] = swapped(XML["n1"], 0, "spare"), swapped(XML["n2"], 0, "n1")
        for name in nodes:
            harness.pod_event(put_pod(kube, name, number=2))
        await until(lambda: marks(kube, "n2") == [["rma"], []] and marks(kube) == [[], []])
        # The mark comes in the write that brings the part.
        patches = [request.body["status"] for request in kube.asked("PATCH", "/n2/status$")]
        assert [gpu.get("quarantines") for gpu in patches[-1]["gpus"]] == [["rma"], None]
        first = next(one for one in patches if one["serials"] == status(kube, "n2")["serials"])
        assert [gpu.get("quarantines") for gpu in first["gpus"]] == [["rma"], None]
        await until(lambda: matches(kube) == [("n2", CONDEMNED)], within=AT_ONCE)
        assert told(kube) == [("GPUQuarantined", "rma")]
        assert quarantined(kube) == ("False", "Released")
        assert told(kube, "n2") == [("GPUQuarantined", "rma")]

    async def test_one_in_a_new_node_is_marked_and_announced(
        self, kube: FakeKube, harness: EngineHarness, nodes: dict[str, str]
    ) -> None:
        harness.quarantine("rma", {"serial": serials(XML["spare"])[1]})
        await until(lambda: present(kube) == ("False", "NoPartPresent"))
        nodes["spare"] = XML["spare"]
        put_node(kube, "spare")
        harness.pod_event(put_pod(kube, "spare"))
        await until(lambda: marks(kube, "spare") == [[], ["rma"]])
        await until(lambda: present(kube) == ("True", "PartPresent"), within=AT_ONCE)
        await until(lambda: events(kube, "GPUQuarantined"))

    async def test_a_departed_node_s_parts_do_not_match(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: matches(kube) == [("n1", CONDEMNED)])
        kube.remove(node_path("n1"))
        body = kube.objects[pod_path("plugin-n1")]
        kube.remove(pod_path("plugin-n1"))
        harness.pod_event(body, deleted=True)
        await until(lambda: status(kube)["state"] == "Departed")
        assert marks(kube) == [[], []]
        assert quarantined(kube) == ("False", "NodeDeparted")
        assert told(kube) == [("GPUQuarantined", "rma")]
        await until(lambda: matches(kube) == [], within=AT_ONCE)
        put_node(kube, "n1")
        harness.pod_event(put_pod(kube, "n1", number=2))
        await until(lambda: marks(kube) == [["rma"], []])
        await until(lambda: matches(kube) == [("n1", CONDEMNED)], within=AT_ONCE)

    async def test_an_inventory_that_a_user_deletes_is_marked_again(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: matches(kube) == [("n1", CONDEMNED)])
        uid = kube.objects[inventory_path("n1")]["metadata"]["uid"]
        kube.remove(inventory_path("n1"))
        await until(
            lambda: (
                inventory_path("n1") in kube.objects
                and kube.objects[inventory_path("n1")]["metadata"]["uid"] != uid
                and marks(kube) == [["rma"], []]
            )
        )


def matches(kube: FakeKube, name: str = "rma") -> list[tuple[str, str]] | None:
    found = quarantine(kube, name)
    if "matchCount" not in found:
        return None
    assert found["matchCount"] == len(found.get("matches", []))
    return [(match["node"], match["serial"]) for match in found.get("matches", [])]


class TestRestart:
    """Another process continues, and tells nothing again."""

    async def test_nothing_is_written_or_told_again(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: matches(kube) == [("n1", CONDEMNED)])
        await until(lambda: delivered(kube, "n1"))
        await harness.engine.stop(within=10)
        before = quarantine(kube)
        second = EngineHarness(kube)
        await second.engine.start()
        await quiet(kube)
        assert second.records == []
        assert quarantine(kube) == before
        content = second.metrics.render()[1].decode()
        assert 'quarantine="rma"} 1.0' in content
        await second.engine.stop(within=10)

    async def test_what_changed_meanwhile_is_told_once(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: matches(kube) == [("n1", CONDEMNED)])
        await until(lambda: delivered(kube, "n1"))
        await harness.engine.stop(within=10)
        kube.remove(quarantine_path("rma"))
        put_quarantine(kube, "new", {"uuid": uuids(XML["n2"])[0]})
        second = EngineHarness(kube)
        await second.engine.start()
        await until(lambda: marks(kube) == [[], []] and marks(kube, "n2") == [["new"], []])
        await until(lambda: len(second.records) == 2)
        assert {record["event"] for record in second.records} == {"GPUQuarantined", "GPUReleased"}
        await second.engine.stop(within=10)

    async def test_a_second_leader_beside_the_first_tells_nothing_again(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        second = EngineHarness(kube)
        await second.engine.start()
        harness.quarantine("rma", PART)
        second.engine.quarantines.quarantine_event(
            kube.objects[quarantine_path("rma")], deleted=False
        )
        await until(lambda: matches(kube) == [("n1", CONDEMNED)])
        await asyncio.sleep(3600)
        assert told(kube) == [("GPUQuarantined", "rma")]
        await second.engine.stop(within=10)


class TestAvailability:
    """The kind is not served, may not be listed, or is written by a later version."""

    @pytest.fixture
    def missing(self, kube: FakeKube) -> None:
        kube.served.discard(QUARANTINE_PLURAL)

    @pytest.mark.usefixtures("missing")
    async def test_without_the_crd_it_works_as_before_and_says_so_once(
        self, kube: FakeKube, nodes: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        marked = put_inventory(kube, "old", status=with_mark("old"))
        put_node(kube, "old")
        harness = EngineHarness(kube)
        await harness.engine.start()
        assert not harness.engine.quarantines.available
        await until(lambda: all(delivered(kube, name) for name in nodes))
        await asyncio.sleep(2 * 3600)
        lines = [record.message for record in caplog.records if "uarantine" in record.message]
        assert lines == ["GPUQuarantine is not served; quarantines have no effect; install its CRD"]
        assert kube.objects[inventory_path("old")]["status"]["gpus"] == marked["status"]["gpus"]
        assert told(kube, "old") == []
        await harness.engine.stop(within=10)

    @pytest.mark.usefixtures("missing")
    async def test_a_crd_that_is_installed_later_is_noticed_and_watched(
        self, kube: FakeKube, nodes: dict[str, str]
    ) -> None:
        harness = EngineHarness(kube)
        await harness.engine.start()
        await until(lambda: all(delivered(kube, name) for name in nodes))
        assert not harness.engine.sources_changed.is_set()
        kube.served.add(QUARANTINE_PLURAL)
        put_quarantine(kube, "rma", PART)
        look = DEFAULT_TIMINGS.quarantine_look.total_seconds()
        await until(lambda: marks(kube) == [["rma"], []], within=look + AT_ONCE)
        assert harness.engine.sources_changed.is_set()
        assert harness.engine.quarantines.available
        await harness.engine.stop(within=10)

    async def test_a_missing_right_is_said_once_and_keeps_the_marks(
        self, kube: FakeKube, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: matches(kube) == [("n1", CONDEMNED)])
        kube.fail("GET", f"/{QUARANTINE_PLURAL}$", forbidden(), times=1000)
        await until(harness.engine.sources_changed.is_set)
        assert not harness.engine.quarantines.available
        await asyncio.sleep(3600)
        assert marks(kube) == [["rma"], []]
        assert told(kube) == [("GPUQuarantined", "rma")]
        lines = [record.message for record in caplog.records if "quarantine" in record.message]
        assert lines == ["failed to list quarantines; they have no effect"]

    async def test_a_deletion_that_no_event_reported_is_found_by_the_resync(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []])
        kube.remove(quarantine_path("rma"))
        await until(lambda: marks(kube) == [[], []])

    async def test_a_deletion_while_a_list_is_under_way_is_not_undone(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []])
        hold = kube.fail("GET", f"/{QUARANTINE_PLURAL}$", until=asyncio.Event())
        listing = asyncio.create_task(harness.engine.quarantines.list_all())
        await hold.met.wait()
        body = kube.objects[quarantine_path("rma")]
        assert hold.until is not None
        hold.until.set()
        await asyncio.sleep(0)
        kube.remove(quarantine_path("rma"))
        harness.engine.quarantines.quarantine_event(body, deleted=True)
        await listing
        await until(lambda: marks(kube) == [[], []], within=AT_ONCE)
        assert told(kube) == [("GPUQuarantined", "rma"), ("GPUReleased", "rma")]

    async def test_one_that_cannot_be_parsed_keeps_its_marks_and_says_so(
        self, kube: FakeKube, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        harness.quarantine("rma", PART)
        await until(lambda: matches(kube) == [("n1", CONDEMNED)])
        harness.quarantine("rma", PART, action="Evict")
        harness.quarantine("other", {"uuid": uuids(XML["n1"])[0]})
        await until(lambda: marks(kube) == [["other", "rma"], []], within=AT_ONCE)
        assert "failed to parse GPUQuarantine; GPUs keep what it marked" in caplog.text
        await until(lambda: ready(kube) == ("False", "NotUnderstood"), within=AT_ONCE)
        assert quarantine(kube)["observedGeneration"] == 2
        assert matches(kube) == [("n1", CONDEMNED)]
        harness.quarantine("rma", PART, action="Drain")
        await until(lambda: quarantine(kube)["observedGeneration"] == 3, within=AT_ONCE)
        await until(lambda: delivered(kube, "n1"))
        await quiet(kube)
        harness.lift("rma")
        await until(lambda: marks(kube) == [["other"], []], within=AT_ONCE)

    async def test_a_node_that_is_left_alone_gets_no_mark(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        kube.change(inventory_path("n1"), lambda body: body["spec"].update(sinks=[UNKNOWN_SINK]))
        await until(lambda: events(kube, "NotUnderstood"))
        before = status(kube)
        harness.quarantine("rma", PART)
        await until(lambda: matches(kube) == [("n1", CONDEMNED)])
        assert status(kube) == before
        await quiet(kube)
        kube.change(inventory_path("n1"), lambda body: body["spec"].update(sinks=[]))
        await until(lambda: marks(kube) == [["rma"], []])


def with_mark(node: str) -> dict[str, Any]:
    gpu = {"uuid": f"GPU-{node}", "serial": "1", "state": "OK", "quarantines": ["rma"]}
    return {"state": "Present", "gpus": [gpu], "gpuCount": 1}


class TestStatus:
    """`status` of a quarantine."""

    async def test_it_says_where_the_parts_are_since_when(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        everything = [{"serial": serial} for name in ("n2", "n1") for serial in serials(XML[name])]
        began = format_time(clock.now())
        harness.quarantine("rma", *everything)
        await until(lambda: present(kube) == ("True", "PartPresent"), within=AT_ONCE)
        assert [node for node, _ in matches(kube) or []] == ["n1", "n1", "n2", "n2"]
        assert {match["since"] for match in quarantine(kube)["matches"]} == {began}
        await asyncio.sleep(60)
        harness.quarantine("rma", *everything[2:], reason="another")
        await until(lambda: quarantine(kube)["observedGeneration"] == 2)
        assert [node for node, _ in matches(kube) or []] == ["n1", "n1"]
        assert {match["since"] for match in quarantine(kube)["matches"]} == {began}
        assert ready(kube) == ("True", "InForce")
        await until(lambda: delivered(kube, "n2"))
        await quiet(kube)

    @pytest.mark.parametrize(
        ("end", "shown"),
        [
            ("0001-01-01T00:00:00+01:00", "NotUnderstood"),
            ("9999-12-31T23:59:59-01:00", "NotUnderstood"),
            ("0000-01-01T00:00:00Z", "NotUnderstood"),
            ("2027-01-01T00:00:00+24:00", "NotUnderstood"),
            ("0001-01-01T00:00:00Z", "Expired"),
            ("9999-12-31T23:59:59Z", "InForce"),
        ],
    )
    async def test_an_until_at_the_edge_has_words_and_stops_no_other(
        self, kube: FakeKube, harness: EngineHarness, end: str, shown: str
    ) -> None:
        harness.quarantine("a", {"serial": "of-no-part"}, until=end)
        harness.quarantine("b", PART)
        await until(lambda: matches(kube, "b") == [("n1", CONDEMNED)], within=AT_ONCE)
        found = ready(kube, "a")
        assert found is not None and found[1] == shown
        await until(lambda: delivered(kube, "n1"))
        await quiet(kube)

    async def test_an_unexpected_error_about_one_stops_no_other(
        self,
        kube: FakeKube,
        harness: EngineHarness,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def decide_or_fail(one: Quarantine, **given: Any) -> QuarantineStatus:
            if one.name == "a":
                raise OverflowError("date value out of range")
            return quarantine_status(one, **given)

        monkeypatch.setattr(quarantine_statuses, "quarantine_status", decide_or_fail)
        harness.quarantine("a", PART)
        harness.quarantine("b", PART)
        await until(lambda: matches(kube, "b") == [("n1", CONDEMNED)], within=AT_ONCE)
        assert quarantine(kube, "a") == {}
        assert "failed to decide on status" in caplog.text

    async def test_a_failed_write_is_tried_again_and_delays_no_other(
        self, kube: FakeKube, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        kube.fail("PATCH", "/a/status$", server_error())
        harness.quarantine("a", PART)
        harness.quarantine("b", PART)
        await until(lambda: matches(kube, "b") == [("n1", CONDEMNED)], within=AT_ONCE)
        assert quarantine(kube, "a") == {}
        await until(lambda: matches(kube, "a") == [("n1", CONDEMNED)], within=10)
        assert caplog.text.count("failed to write quarantine status") == 1

    async def test_a_conflict_with_a_user_is_resolved_by_the_event(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        body = put_quarantine(kube, "rma", PART)
        put_quarantine(kube, "rma", PART, reason="the event of this one has not arrived")
        harness.engine.quarantines.quarantine_event(body, deleted=False)
        await until(lambda: kube.asked("PATCH", ANY_STATUS))
        assert quarantine(kube) == {}
        harness.engine.quarantines.quarantine_event(
            kube.objects[quarantine_path("rma")], deleted=False
        )
        await until(lambda: quarantine(kube).get("observedGeneration") == 2, within=AT_ONCE)

    async def test_the_nodes_of_a_new_fleet_come_first(
        self, kube: FakeKube, nodes: dict[str, str]
    ) -> None:
        put_quarantine(kube, "rma", PART)
        kube.exec.decide = lambda _: ExecAnswer(hang=True)
        harness = EngineHarness(kube, workers=1)
        await harness.engine.start()
        await until(lambda: kube.exec.running == 1)
        await asyncio.sleep(20)
        assert kube.asked("PATCH", ANY_STATUS) == []
        await until(lambda: kube.asked("PATCH", ANY_STATUS), within=20)
        await harness.engine.stop(within=1)


class TestWrites:
    """A mark that cannot be written."""

    async def test_it_is_tried_again(
        self, kube: FakeKube, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        kube.fail("PATCH", "/n1/status$", forbidden(), times=2)
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []], within=60)
        assert told(kube) == [("GPUQuarantined", "rma")]
        assert caplog.text.count("failed to mark GPUs") == 2

    @pytest.mark.parametrize("after", [False, True])
    async def test_a_write_without_an_answer_is_told_once(
        self, kube: FakeKube, harness: EngineHarness, after: bool
    ) -> None:
        kube.fail("PATCH", "/n1/status$", server_error(), after=after)
        harness.quarantine("rma", PART)
        await until(lambda: marks(kube) == [["rma"], []] and delivered(kube, "n1"))
        assert told(kube) == [("GPUQuarantined", "rma")]
        assert [one["event"] for one in harness.records].count("GPUQuarantined") == 1

    async def test_a_quarantine_that_changes_during_its_write_wins(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        hold = kube.fail("PATCH", "/n1/status$", until=asyncio.Event())
        harness.quarantine("rma", PART)
        await hold.met.wait()
        harness.lift("rma")
        await asyncio.sleep(1)
        assert hold.until is not None
        hold.until.set()
        await until(lambda: told(kube) != [] and marks(kube) == [[], []], within=AT_ONCE)
        assert told(kube) == [("GPUQuarantined", "rma"), ("GPUReleased", "rma")]


def collection(path: str) -> Callable[[Request], bool]:
    return lambda request: request.path.startswith(path)


async def test_quarantines_that_match_nothing_cost_no_write(
    kube: FakeKube, nodes: dict[str, str]
) -> None:
    plain = EngineHarness(kube)
    await plain.engine.start()
    await until(lambda: all(delivered(kube, name) for name in nodes))
    for number in range(50):
        plain.quarantine(f"q{number}", {"serial": f"other-{number}"})
    before = len(writes(kube))
    await asyncio.sleep(3600)
    written = writes(kube)[before:]
    assert len(written) == 50
    assert all(map(collection(QUARANTINES), written))
    await plain.engine.stop(within=10)
