"""One GPU in two inventories: the operator looks again, and says so only when it is certain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.engines import until
from tests.support.gpu_fleet import UUIDS, GPUFleet
from tests.support.kube import FakeKube
from tests.support.objects import inventory_path

MINUTE = 60.0
LONG = 20 * MINUTE


@pytest.fixture
async def fleet(kube: FakeKube) -> AsyncIterator[GPUFleet]:
    """Two nodes with two GPUs each, read long ago."""
    fleet = GPUFleet(kube)
    fleet.add("n1", 0, 1)
    fleet.add("n2", 2, 3)
    await fleet.start()
    await fleet.settled()
    await asyncio.sleep(LONG)
    yield fleet
    await fleet.stop()


async def clone(fleet: GPUFleet) -> None:
    """Let both nodes claim GPU 0, and wait until the operator is certain."""
    fleet.has("n2", 0, 2, 3)
    fleet.restart_container("n2")
    await until(lambda: fleet.is_unique("n1") == fleet.is_unique("n2") == "False", within=MINUTE)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_a_gpu_that_moved_leaves_its_node_at_once(fleet: GPUFleet) -> None:
    moved = now()
    fleet.has("n1", 1)
    fleet.has("n2", 0, 2, 3)
    fleet.restart_container("n2")
    await until(lambda: fleet.listed("n2") == {0, 2, 3}, within=MINUTE)
    await until(lambda: fleet.listed("n1") == {1}, within=MINUTE)
    # A read at once, and the second one 10 s later that confirms the removal.
    first, second = fleet.reads("n1")[1:]
    assert first - moved < 5
    assert 9.9 <= second - first < 15
    await asyncio.sleep(LONG)
    assert (len(fleet.reads("n1")), len(fleet.reads("n2"))) == (3, 2)
    assert (fleet.unique("n1"), fleet.unique("n2")) == (None, None)
    assert fleet.warned() == []
    assert fleet.metric() == 0
    events = [one["event"] for one in fleet.harness.records[4:]]
    assert sorted(events) == ["GPUAdded", "GPURemoved"]


async def test_a_gpu_that_both_nodes_list_is_a_duplicate(fleet: GPUFleet) -> None:
    await clone(fleet)
    for node, other in (("n1", "n2"), ("n2", "n1")):
        message = f"nvidia-smi lists {UUIDS[0]} on {other}, too"
        assert fleet.unique(node) == ("False", "SeenElsewhere", message)
    await asyncio.sleep(LONG)
    # The node that was read longer ago was read once more, and the other one was not.
    assert (len(fleet.reads("n1")), len(fleet.reads("n2"))) == (2, 2)
    assert sorted(fleet.warned()) == ["n1", "n2"]
    event = fleet.seen_elsewhere()[0].body
    assert event["type"] == "Warning"
    assert UUIDS[0] in event["message"]
    assert fleet.metric() == 1


async def test_several_duplicates_are_one_event(fleet: GPUFleet) -> None:
    fleet.has("n2", 0, 1, 2, 3)
    fleet.restart_container("n2")
    await until(lambda: fleet.is_unique("n1") == fleet.is_unique("n2") == "False", within=MINUTE)
    first, second = sorted(UUIDS[:2])
    message = f"nvidia-smi lists {first}, {second} on n2, too"
    await until(lambda: fleet.unique("n1") == ("False", "SeenElsewhere", message), within=MINUTE)
    assert sorted(fleet.warned()) == ["n1", "n2"]
    assert fleet.metric() == 2
    assert len(fleet.reads("n1")) == 2


async def test_a_duplicate_that_goes_makes_both_unique_again(fleet: GPUFleet) -> None:
    await clone(fleet)
    fleet.has("n1", 1)
    fleet.restart_container("n1")
    await until(lambda: fleet.unique("n1") == ("True", "Unique", ""), within=MINUTE)
    await until(lambda: fleet.unique("n2") == ("True", "Unique", ""), within=5)
    assert fleet.metric() == 0
    # It comes back: that is news.
    await asyncio.sleep(LONG)
    fleet.has("n1", 0, 1)
    fleet.restart_container("n1")
    await until(lambda: fleet.is_unique("n1") == fleet.is_unique("n2") == "False", within=MINUTE)
    assert sorted(fleet.warned()) == ["n1", "n1", "n2", "n2"]


async def test_a_node_that_departs_leaves_the_other_one_unique(fleet: GPUFleet) -> None:
    await clone(fleet)
    fleet.remove("n1")
    await until(lambda: fleet.status("n1")["state"] == "Departed", within=2 * MINUTE)
    await until(lambda: fleet.unique("n2") == ("True", "Unique", ""), within=5)
    assert fleet.unique("n1") == ("Unknown", "NodeDeparted", "the node is gone")


async def test_an_inventory_that_is_deleted_is_read_and_found_again(fleet: GPUFleet) -> None:
    await clone(fleet)
    fleet.kube.remove(inventory_path("n1"))
    await until(lambda: fleet.is_unique("n2") == "True", within=5)
    await until(lambda: fleet.is_unique("n1") == fleet.is_unique("n2") == "False", within=MINUTE)


async def test_a_restart_says_nothing_again_and_reads_nothing(fleet: GPUFleet) -> None:
    await clone(fleet)
    await fleet.settled()
    await fleet.stop()
    version, runs = fleet.kube.version, len(fleet.kube.exec.calls)
    await fleet.restart()
    await asyncio.sleep(LONG)
    assert (fleet.kube.version, len(fleet.kube.exec.calls)) == (version, runs)
    assert fleet.metric() == 1
    assert sorted(fleet.warned()) == ["n1", "n2"]
    fleet.has("n1", 1)
    fleet.restart_container("n1")
    await until(lambda: fleet.is_unique("n1") == fleet.is_unique("n2") == "True", within=MINUTE)


async def test_after_a_restart_one_condition_is_no_proof(fleet: GPUFleet) -> None:
    """The operator ended between the writes of the two conditions."""
    await clone(fleet)
    await fleet.settled()
    await fleet.stop()
    path = inventory_path("n2")

    def without_condition(body: dict[str, dict[str, list[dict[str, str]]]]) -> None:
        kept = [one for one in body["status"]["conditions"] if one["type"] != "Unique"]
        body["status"]["conditions"] = kept

    fleet.kube.change(path, without_condition)
    fleet.has("n1", 1)  # while nobody looked
    await fleet.restart()
    assert fleet.is_unique("n1") == "False"
    await until(lambda: fleet.listed("n1") == {1}, within=3 * MINUTE)
    await until(lambda: fleet.is_unique("n1") == "True", within=5)
    assert fleet.unique("n2") is None


async def test_a_move_while_the_operator_was_away_is_no_duplicate(fleet: GPUFleet) -> None:
    await fleet.stop()
    fleet.has("n1", 1)
    fleet.has("n2", 0, 2, 3)
    fleet.restart_container("n2")
    await fleet.restart()
    await until(lambda: fleet.listed("n1") == {1}, within=MINUTE)
    assert fleet.listed("n2") == {0, 2, 3}
    assert fleet.warned() == []


async def test_a_suspended_node_is_not_read(fleet: GPUFleet) -> None:
    fleet.suspend("n1", True)
    await asyncio.sleep(1)
    fleet.has("n1", 1)
    fleet.has("n2", 0, 2, 3)
    fleet.restart_container("n2")
    await asyncio.sleep(LONG)
    assert len(fleet.reads("n1")) == 1
    assert (fleet.unique("n1"), fleet.unique("n2")) == (None, None)
    fleet.suspend("n1", False)
    await until(lambda: fleet.listed("n1") == {1}, within=MINUTE)
    assert fleet.warned() == []


async def test_nothing_is_certain_while_a_node_cannot_be_read(fleet: GPUFleet) -> None:
    fleet.failing.add("n1")
    fleet.has("n2", 0, 2, 3)
    fleet.restart_container("n2")
    await asyncio.sleep(LONG)
    assert (fleet.unique("n1"), fleet.unique("n2")) == (None, None)
    fleet.failing.clear()
    # By then the read of the other node is too old to prove anything: it is read again, too.
    await until(lambda: fleet.is_unique("n1") == fleet.is_unique("n2") == "False", within=LONG)
    assert len(fleet.reads("n2")) == 3
    assert sorted(fleet.warned()) == ["n1", "n2"]


async def test_a_gpu_that_moved_to_and_fro_while_a_node_failed_is_no_duplicate(
    fleet: GPUFleet,
) -> None:
    fleet.failing.add("n1")
    fleet.has("n1", 1)
    fleet.has("n2", 0, 2, 3)
    fleet.restart_container("n2")
    await asyncio.sleep(LONG)
    fleet.has("n1", 0, 1)
    fleet.has("n2", 2, 3)
    fleet.failing.clear()
    await until(lambda: fleet.listed("n2") == {2, 3}, within=LONG)
    assert fleet.listed("n1") == {0, 1}
    assert fleet.warned() == []
    assert (fleet.unique("n1"), fleet.unique("n2")) == (None, None)


async def test_a_node_without_a_target_pod_is_not_accused(fleet: GPUFleet) -> None:
    """Nothing says whether its last reading still holds."""
    body = fleet.kube.objects["/api/v1/namespaces/gpu-operator/pods/plugin-n1"]
    fleet.kube.remove("/api/v1/namespaces/gpu-operator/pods/plugin-n1")
    fleet.harness.pod_event(body, deleted=True)
    fleet.has("n2", 0, 2, 3)
    fleet.restart_container("n2")
    await asyncio.sleep(LONG)
    assert len(fleet.reads("n1")) == 1
    assert (fleet.unique("n1"), fleet.unique("n2")) == (None, None)
    assert fleet.metric() == 0


async def test_three_nodes_with_one_gpu_name_each_other(fleet: GPUFleet) -> None:
    await clone(fleet)
    await asyncio.sleep(LONG)
    fleet.add("n3", 0)

    def named(node: str, others: str) -> bool:
        message = f"nvidia-smi lists {UUIDS[0]} on {others}, too"
        return fleet.unique(node) == ("False", "SeenElsewhere", message)

    await until(lambda: named("n1", "n2, n3") and named("n2", "n1, n3"), within=MINUTE)
    await until(lambda: named("n3", "n1, n2"), within=MINUTE)
    assert sorted(fleet.warned()) == ["n1", "n2", "n3"]
    assert fleet.metric() == 1
    # The two that were certain looked again, too: the GPU may have moved from one of them.
    assert (len(fleet.reads("n1")), len(fleet.reads("n2"))) == (3, 3)
    fleet.has("n2", 2, 3)
    fleet.restart_container("n2")
    await until(lambda: named("n1", "n3") and named("n3", "n1"), within=MINUTE)
    await until(lambda: fleet.is_unique("n2") == "True", within=5)
    assert sorted(fleet.warned()) == ["n1", "n2", "n3"]


async def test_one_of_two_duplicates_moves_on(fleet: GPUFleet) -> None:
    await clone(fleet)
    await asyncio.sleep(LONG)
    fleet.has("n1", 1)
    fleet.add("n3", 0)
    await until(lambda: fleet.listed("n1") == {1}, within=MINUTE)
    await until(lambda: fleet.is_unique("n1") == "True", within=MINUTE)
    await until(lambda: fleet.is_unique("n2") == fleet.is_unique("n3") == "False", within=MINUTE)
    assert sorted(fleet.warned()) == ["n1", "n2", "n3"]


async def test_a_node_that_was_away_while_others_became_certain(fleet: GPUFleet) -> None:
    fleet.suspend("n1", True)
    await asyncio.sleep(1)
    fleet.has("n2", 0, 2, 3)
    fleet.restart_container("n2")
    fleet.add("n3", 0)
    await until(lambda: fleet.is_unique("n2") == fleet.is_unique("n3") == "False", within=MINUTE)
    assert fleet.unique("n1") is None
    await asyncio.sleep(LONG)
    fleet.suspend("n1", False)
    await until(lambda: fleet.is_unique("n1") == "False", within=MINUTE)
    assert sorted(fleet.warned()) == ["n1", "n2", "n3"]


async def test_two_new_nodes_with_one_gpu(kube: FakeKube) -> None:
    fleet = GPUFleet(kube)
    fleet.add("n1", 0)
    fleet.add("n2", 0)
    await fleet.start()
    await until(lambda: fleet.is_unique("n1") == fleet.is_unique("n2") == "False", within=MINUTE)
    assert len(fleet.kube.exec.calls) == 3
    await fleet.stop()


async def test_a_uuid_that_many_nodes_have_costs_few_reads(kube: FakeKube) -> None:
    """For example, one output of nvidia-smi that is copied to all simulated nodes."""
    fleet = GPUFleet(kube)
    names = [f"n{number:02d}" for number in range(60)]
    for name in names:
        fleet.add(name, 0)
    await fleet.start()
    await until(lambda: all(fleet.is_unique(name) == "False" for name in names))
    await fleet.settled()
    await asyncio.sleep(LONG)
    message = f"nvidia-smi lists {UUIDS[0]} on n00, n01, n02 and other nodes, too"
    assert fleet.unique("n30") == ("False", "SeenElsewhere", message)
    others = message.replace("n00, n01, n02", "n00, n02, n03")
    assert fleet.unique("n01") == ("False", "SeenElsewhere", others)
    assert len(fleet.kube.exec.calls) < 3 * len(names)
    assert sorted(fleet.warned()) == names
    assert fleet.metric() == 1
    await fleet.stop()
