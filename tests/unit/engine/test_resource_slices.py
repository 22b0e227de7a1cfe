"""ResourceSlices in the engine: GPU nodes without capacity, facts of nodes that cannot be read, and
what differs from the inventory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.kube.errors import NotFound
from tests.support.engines import EngineHarness, until
from tests.support.fake_exec import ExecAnswer
from tests.support.kube import FakeKube, Request, StreamFault, forbidden, rejected, server_error
from tests.support.objects import inventory_path, node_path, pod_path, put_node, put_pod
from tests.support.resource_slices import PRODUCT, gpus, mig, put_slice, slice_path
from tests.support.smi_fixtures import machine, swapped, uuids, without

SLICES = "/resourceslices$"
NAME = "n1-gpu.nvidia.com"
RESYNC = DEFAULT_TIMINGS.resync.total_seconds()


@pytest.fixture
async def harness(kube: FakeKube) -> AsyncIterator[EngineHarness]:
    kube.exec.answer = ExecAnswer(stdout=machine("n1").encode())
    harness = EngineHarness(kube)
    yield harness
    await harness.engine.stop(within=1)


async def start(harness: EngineHarness) -> None:
    await harness.engine.start()
    await until(lambda: not harness.kube.dra_versions or harness.kube.asked("WATCH", SLICES))


def status(kube: FakeKube, node: str = "n1") -> dict[str, Any]:
    found: dict[str, Any] = kube.objects.get(inventory_path(node), {}).get("status", {})
    return found


def ready(kube: FakeKube, node: str = "n1") -> tuple[str, str, str]:
    for one in status(kube, node).get("conditions", ()):
        if one["type"] == "Ready":
            return one["status"], one["reason"], one["message"]
    return "", "", ""


def writes(kube: FakeKube) -> list[Request]:
    return [one for one in kube.requests if one.method not in ("GET", "WATCH")]


def publish(kube: FakeKube, *found: str, **how: Any) -> None:
    """The driver publishes these GPUs of n1."""
    put_slice(kube, "n1", gpus(*found), **how)


def has_read(kube: FakeKube) -> bool:
    """The node was read, and its history delivered."""
    return [sink["pending"] for sink in status(kube).get("sinks", ())] == [0]


async def read_node(harness: EngineHarness) -> list[str]:
    """A node with a target pod that was read. Returns the UUIDs of its GPUs."""
    put_node(harness.kube, "n1")
    put_pod(harness.kube, "n1")
    await start(harness)
    await until(lambda: has_read(harness.kube))
    return uuids(machine("n1"))


class TestNodeWithoutPod:
    """A node whose GPUs are known from slices alone."""

    async def test_has_an_inventory_with_product_and_driver(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None)
        publish(kube, "GPU-a", "GPU-b")
        await start(harness)
        await until(lambda: ready(kube)[1] == "NoTargetPod")
        found = status(kube)
        assert (found["product"], found["driverVersion"]) == (PRODUCT, "570.86.15")
        assert found["source"] == {"resourceSlices": True}
        assert found["node"]["machine"] == "i-n1"
        assert found.keys().isdisjoint({"gpus", "gpuCount", "serials", "lastReadTime"})
        assert found["history"] == []
        assert not kube.objects[inventory_path("n1")]["metadata"]["labels"].keys() & {
            "uuid.gpuid.github.com/GPU-a"
        }
        await asyncio.sleep(60)
        assert harness.records == []

    async def test_a_slice_that_comes_later_is_noticed_at_once(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None)
        await start(harness)
        loop = asyncio.get_running_loop()
        before = loop.time()
        publish(kube, "GPU-a")
        await until(lambda: ready(kube)[1] == "NoTargetPod")
        assert loop.time() - before < 5

    async def test_a_label_of_the_node_is_enough(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None, labels={"nvidia.com/gpu.present": "true"})
        put_node(kube, "n2", gpus=None, labels={"nvidia.com/gpu.present": "false"})
        await start(harness)
        await until(lambda: ready(kube)[1] == "NoTargetPod")
        assert "source" not in status(kube)
        await asyncio.sleep(2 * RESYNC)
        assert inventory_path("n2") not in kube.objects

    async def test_slices_of_other_drivers_and_empty_ones_do_not_count(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None)
        put_node(kube, "n2", gpus=None)
        publish(kube, "GPU-a", driver="compute-domain.nvidia.com")
        put_slice(kube, "n2", [])
        put_slice(kube, None, gpus("GPU-c"))
        await start(harness)
        await asyncio.sleep(2 * RESYNC)
        assert writes(kube) == []

    async def test_a_read_replaces_the_facts_without_false_history(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None)
        put_slice(kube, "n1", gpus(*uuids(machine("n1")), driver="1.2.3"))
        await start(harness)
        await until(lambda: ready(kube)[1] == "NoTargetPod")
        harness.pod_event(put_pod(kube, "n1"))
        await until(lambda: "gpuCount" in status(kube) and has_read(kube))
        found = status(kube)
        assert [entry["type"] for entry in found["history"]] == ["GPUAdded", "GPUAdded", "Sighted"]
        assert found["source"]["containerID"] == "containerd://plugin-n1-1"
        assert "resourceSlices" not in found["source"]
        assert found["driverVersion"] not in (None, "1.2.3")
        assert ready(kube) == ("True", "ReadOK", "")

    async def test_a_failed_first_read_shows_them_too(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        kube.exec.answer = ExecAnswer(exit_code=9, stderr=b"NVIDIA-SMI has failed")
        put_node(kube, "n1", gpus=None)
        put_pod(kube, "n1")
        publish(kube, "GPU-a")
        await start(harness)
        await until(lambda: ready(kube)[0] == "False")
        assert status(kube)["product"] == PRODUCT

    async def test_the_facts_follow_the_slices_and_go_with_them(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None)
        publish(kube, "GPU-a")
        await start(harness)
        await until(lambda: "product" in status(kube))
        put_slice(kube, "n1", gpus("GPU-a", driver="580.65.6"), generation=2)
        await until(lambda: status(kube)["driverVersion"] == "580.65.6")
        kube.remove(slice_path(NAME))
        await until(lambda: "product" not in status(kube))
        assert status(kube).keys().isdisjoint({"driverVersion", "source"})
        assert ready(kube)[:2] == ("False", "NoTargetPod")

    async def test_a_node_that_is_gone_departs_as_any_other(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None)
        publish(kube, "GPU-a")
        await start(harness)
        await until(lambda: "product" in status(kube))
        kube.remove(node_path("n1"))
        await until(lambda: status(kube)["state"] == "Departed")
        kube.remove(slice_path(NAME))
        await asyncio.sleep(2 * RESYNC)
        assert status(kube)["product"] == PRODUCT
        assert [entry["type"] for entry in status(kube)["history"]] == ["NodeDeparted"]

    async def test_a_slice_that_outlives_its_node_makes_no_inventory(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        publish(kube, "GPU-a")
        await start(harness)
        await asyncio.sleep(2 * RESYNC)
        assert writes(kube) == []


class TestDifference:
    """The slices and the last successful read do not have the same GPUs."""

    async def test_is_said_by_ready_and_ends(self, kube: FakeKube, harness: EngineHarness) -> None:
        first, second = await read_node(harness)
        assert ready(kube) == ("True", "ReadOK", "")
        publish(kube, first, "GPU-other")
        await until(lambda: "differ" in ready(kube)[2])
        assert ready(kube) == (
            "True",
            "ReadOK",
            "ResourceSlices of gpu.nvidia.com differ: they publish GPU-other, which nvidia-smi did"
            f" not list; they do not publish {second}, which the inventory lists",
        )
        publish(kube, first, second, generation=2)
        await until(lambda: ready(kube) == ("True", "ReadOK", ""))

    async def test_makes_one_read_due(self, kube: FakeKube, harness: EngineHarness) -> None:
        first, second = await read_node(harness)
        assert len(kube.exec.calls) == 1
        publish(kube, first, "GPU-other")
        await until(lambda: len(kube.exec.calls) == 2)
        await asyncio.sleep(2 * RESYNC)
        assert len(kube.exec.calls) == 2
        publish(kube, first, second, generation=2)
        await asyncio.sleep(2 * RESYNC)
        assert len(kube.exec.calls) == 2

    async def test_a_swap_that_only_the_slices_show_is_read(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        first, second = await read_node(harness)
        publish(kube, first, second)
        xml = swapped(machine("n1"), 1, "spare")
        kube.exec.answer = ExecAnswer(stdout=xml.encode())
        await asyncio.sleep(60)
        publish(kube, *uuids(xml), generation=2)
        await until(lambda: [gpu["uuid"] for gpu in status(kube)["gpus"]] == uuids(xml))
        await until(lambda: ready(kube) == ("True", "ReadOK", ""))

    async def test_a_gpu_in_mig_mode_is_none(self, kube: FakeKube, harness: EngineHarness) -> None:
        first, second = await read_node(harness)
        put_slice(kube, "n1", [*gpus(first), mig(second, index=1)])
        await asyncio.sleep(60)
        assert ready(kube) == ("True", "ReadOK", "")


class TestChurn:
    """Slices are written far more often than devices change."""

    async def test_the_same_devices_again_cost_no_write_and_no_read(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        first, second = await read_node(harness)
        put_node(kube, "n2", gpus=None)
        put_slice(kube, "n2", gpus("GPU-x"))
        publish(kube, first, second)
        await until(lambda: ready(kube, "n2")[1] == "NoTargetPod")
        written, execs = len(writes(kube)), len(kube.exec.calls)
        for generation in range(2, 12):
            publish(kube, first, second, generation=generation)
            put_slice(kube, "n2", gpus("GPU-x"), generation=generation)
            await asyncio.sleep(30)
        await asyncio.sleep(2 * RESYNC)
        assert (len(writes(kube)), len(kube.exec.calls)) == (written, execs)

    async def test_an_incomplete_generation_changes_nothing(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None)
        publish(kube, "GPU-a", name="one")
        await start(harness)
        await until(lambda: "product" in status(kube))
        written = len(writes(kube))
        put_slice(kube, "n1", gpus("GPU-a", driver="1.1"), name="one", generation=2, count=2)
        await asyncio.sleep(2 * RESYNC)
        assert len(writes(kube)) == written
        put_slice(kube, "n1", gpus("GPU-b", driver="1.2"), name="two", generation=2, count=2)
        await until(lambda: status(kube)["driverVersion"] == "1.1, 1.2")
        kube.remove(slice_path("one"))
        await asyncio.sleep(2 * RESYNC)
        assert status(kube)["driverVersion"] == "1.1, 1.2"

    async def test_an_older_generation_that_was_left_behind_does_not_count(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None)
        put_slice(kube, "n1", gpus("GPU-b", driver="2.0"), name="new", generation=5)
        await start(harness)
        await until(lambda: "product" in status(kube))
        put_slice(kube, "n1", gpus("GPU-a", driver="1.0"), name="old", generation=4)
        await asyncio.sleep(60)
        assert status(kube)["driverVersion"] == "2.0"

    async def test_a_restart_writes_and_reads_nothing(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        first, _ = await read_node(harness)
        put_node(kube, "n2", gpus=None)
        put_slice(kube, "n2", gpus("GPU-x"))
        publish(kube, first, "GPU-other")
        await until(lambda: "differ" in ready(kube)[2] and "product" in status(kube, "n2"))
        await until(lambda: len(kube.exec.calls) == 2)
        await asyncio.sleep(60)
        await harness.engine.stop(within=10)
        # In the middle of a generation: what the status says stays.
        publish(kube, first, generation=2, count=2)
        put_slice(kube, "n2", gpus("GPU-x", driver="9"), generation=2, count=2)
        written, execs = len(writes(kube)), len(kube.exec.calls)
        again = EngineHarness(kube)
        await again.engine.start()
        await asyncio.sleep(2 * RESYNC)
        assert (len(writes(kube)), len(kube.exec.calls)) == (written, execs)
        await again.engine.stop(within=10)


class TestClaim:
    """A reader with a resource claim does not see a GPU in MIG mode."""

    async def read_through_claim(self, harness: EngineHarness) -> None:
        kube = harness.kube
        first, second = uuids(machine("n1"))
        put_node(kube, "n1")
        publish(kube, first, second)
        pod = put_pod(kube, "n1")
        pod["spec"]["containers"][0]["resources"] = {"claims": [{"name": "gpus"}]}
        kube.put(pod_path("plugin-n1"), pod)
        await start(harness)
        await until(lambda: has_read(kube))

    async def test_it_stays_and_no_removal_is_recorded(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        await self.read_through_claim(harness)
        first, second = uuids(machine("n1"))
        kube.exec.answer = ExecAnswer(stdout=without(machine("n1"), 1).encode())
        put_slice(kube, "n1", [*gpus(first), mig(second, index=1)], generation=2)
        kube.change(
            inventory_path("n1"),
            lambda body: body["metadata"].update(annotations={"gpuid.github.com/requestedAt": "x"}),
        )
        await until(lambda: status(kube).get("lastHandledRequest") == "x")
        assert ready(kube)[2].endswith(f"they stay as last read: {second}")
        await asyncio.sleep(2 * RESYNC)
        assert [gpu["uuid"] for gpu in status(kube)["gpus"]] == [first, second]
        assert len(kube.exec.calls) == 2
        # The slices show that it is gone: the node is read again, twice.
        publish(kube, first, generation=3)
        await until(lambda: [gpu["uuid"] for gpu in status(kube)["gpus"]] == [first])
        assert len(kube.exec.calls) == 4
        assert status(kube)["history"][-2]["type"] == "GPURemoved"


def about_slices(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """The lines of the log, without the one about a cluster that shows no GPU."""
    return [one for one in caplog.records if one.message != "found no target pod and no GPU node"]


class TestAvailability:
    """The API server may not serve slices, and the right to list them may be missing."""

    @pytest.mark.parametrize("version", ["v1", "v1beta2", "v1beta1"])
    async def test_the_newest_served_version_is_used(
        self, kube: FakeKube, harness: EngineHarness, version: str
    ) -> None:
        kube.dra_versions = {version, "v1alpha3"}
        put_node(kube, "n1", gpus=None)
        publish(kube, "GPU-a", version=version)
        await start(harness)
        await until(lambda: status(kube).get("product") == PRODUCT)
        assert {one.path for one in kube.asked("WATCH", SLICES)} == {
            f"/apis/resource.k8s.io/{version}/resourceslices"
        }

    async def test_an_api_that_appears_later_is_noticed_at_the_resync(
        self, kube: FakeKube, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        kube.dra_versions = set()
        put_node(kube, "n1", gpus=None)
        await start(harness)
        await asyncio.sleep(2 * RESYNC)
        assert kube.asked("WATCH", SLICES) == kube.asked("GET", SLICES) == []
        assert about_slices(caplog) == []
        kube.dra_versions = {"v1"}
        publish(kube, "GPU-a")
        await until(lambda: status(kube).get("product") == PRODUCT, within=RESYNC + 10)

    async def test_an_api_that_is_gone_leaves_the_statuses(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        put_node(kube, "n1", gpus=None)
        publish(kube, "GPU-a")
        await start(harness)
        await until(lambda: status(kube).get("product") == PRODUCT)
        kube.dra_versions = set()
        kube.break_watches()
        written = len(writes(kube))
        await asyncio.sleep(2 * RESYNC)
        assert len(writes(kube)) == written
        asked = len(kube.asked("", SLICES)) + len(kube.asked("WATCH", SLICES))
        await asyncio.sleep(2 * RESYNC)
        assert len(kube.asked("", SLICES)) + len(kube.asked("WATCH", SLICES)) == asked
        kube.dra_versions = {"v1"}
        put_slice(kube, "n1", gpus("GPU-a", driver="2"), generation=2)
        await until(lambda: status(kube)["driverVersion"] == "2", within=RESYNC + 10)

    async def test_a_missing_right_is_said_once(
        self, kube: FakeKube, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        fault = kube.fail("GET", SLICES, forbidden(), lasts=3 * RESYNC)
        put_node(kube, "n1", gpus=None)
        publish(kube, "GPU-a")
        await harness.engine.start()
        await fault.met.wait()
        await asyncio.sleep(2.5 * RESYNC)
        assert [one.message for one in about_slices(caplog) if one.levelname == "WARNING"] == [
            "failed to list ResourceSlices; they have no effect"
        ]
        assert writes(kube) == []
        await until(lambda: status(kube).get("product") == PRODUCT, within=2 * RESYNC)

    async def test_without_the_right_to_watch_the_resync_brings_changes(
        self, kube: FakeKube, harness: EngineHarness, caplog: pytest.LogCaptureFixture
    ) -> None:
        kube.fail("WATCH", SLICES, forbidden(), lasts=10 * RESYNC)
        put_node(kube, "n1", gpus=None)
        await start(harness)
        publish(kube, "GPU-a")
        await until(lambda: status(kube).get("product") == PRODUCT, within=RESYNC + 10)
        await asyncio.sleep(2 * RESYNC)
        warnings = [one for one in about_slices(caplog) if one.levelname == "WARNING"]
        assert [one.message for one in warnings] == ["ResourceSlice watch disconnected"]

    @pytest.mark.parametrize("error", [server_error(), rejected(NotFound, 404, "")])
    async def test_a_list_that_fails_is_repeated(
        self, kube: FakeKube, harness: EngineHarness, error: Exception
    ) -> None:
        put_node(kube, "n1", gpus=None)
        await start(harness)
        kube.fail("GET", SLICES, error)
        publish(kube, "GPU-a")
        kube.expire()
        kube.break_watches()
        await until(lambda: status(kube).get("product") == PRODUCT, within=RESYNC + 10)


class TestWatch:
    """The watch of slices brings every change, or the resync does."""

    @pytest.mark.parametrize("fault", StreamFault)
    async def test_no_event_is_lost_for_good(
        self, kube: FakeKube, harness: EngineHarness, fault: StreamFault
    ) -> None:
        put_node(kube, "n1", gpus=None)
        publish(kube, "GPU-a")
        await start(harness)
        await until(lambda: "product" in status(kube))
        await asyncio.sleep(60)
        kube.stream_faults[kube.streamed] = fault
        put_slice(kube, "n1", gpus("GPU-a", driver="2"), generation=2)
        await until(lambda: status(kube)["driverVersion"] == "2", within=RESYNC + 100)
        kube.stream_faults[kube.streamed] = fault
        kube.remove(slice_path(NAME))
        await until(lambda: "product" not in status(kube), within=RESYNC + 100)

    async def test_a_resync_lists_metadata_and_fetches_what_no_event_brought(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        for node in ("n1", "n2"):
            put_node(kube, node, gpus=None)
            put_slice(kube, node, gpus(f"GPU-{node}"))
        await start(harness)
        await until(lambda: "product" in status(kube) and "product" in status(kube, "n2"))
        fetches = "/resourceslices/"
        await asyncio.sleep(2 * RESYNC)
        assert len(kube.asked("GET", SLICES)) == 3
        assert kube.asked("GET", fetches) == []
        kube.stream_faults[kube.streamed] = StreamFault.SKIPPED
        publish(kube, "GPU-n1", generation=2)
        await asyncio.sleep(2 * RESYNC)
        assert [one.path for one in kube.asked("GET", fetches)] == [slice_path(NAME)]

    async def test_only_slices_of_the_driver_are_asked_for(
        self, kube: FakeKube, harness: EngineHarness
    ) -> None:
        await start(harness)
        (asked, *_) = kube.asked("GET", SLICES)
        (watched, *_) = kube.asked("WATCH", SLICES)
        selector = "spec.driver=gpu.nvidia.com"
        assert asked.params["fieldSelector"] == watched.params["fieldSelector"] == selector
