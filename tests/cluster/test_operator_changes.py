"""What happens to the GPUs of a node becomes history, labels and Events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from tests.support.operators import (
    Operator,
    condition,
    eventually,
    history,
    inventory,
    node_labels,
    read_again,
    status,
    types,
)
from tests.support.smi_fixtures import facts, lost, machine, moved, serials, swapped, uuids, without

LABELS = "gpuid.github.com"


def lookup(fleet: LocalCluster, node: str) -> dict[str, str]:
    """The look-up labels of a node's inventory."""
    labels = inventory(fleet, node)["metadata"]["labels"]
    return {key: value for key, value in labels.items() if f".{LABELS}/" in key}


def events(fleet: LocalCluster, node: str) -> dict[str, dict[str, Any]]:
    """The Events about a node's inventory by their reason."""
    path = "/api/v1/namespaces/default/events"
    about = f"involvedObject.kind=GPUInventory,involvedObject.name={node}"
    found = fleet.client.get(path, fieldSelector=about)["items"]
    return {event["reason"]: event for event in found}


def test_a_first_read_adds_each_gpu_and_makes_no_event(
    fleet: LocalCluster, node: str, operator: Operator
) -> None:
    xml = fleet.smi_file(node).read_text()
    found = status(fleet, node)
    assert types(found["history"]) == ["GPUAdded", "GPUAdded", "Sighted"]
    assert [entry["sequence"] for entry in found["history"]] == [1, 2, 3]
    added = history(fleet, node)
    assert [entry["uuid"] for entry in added] == uuids(xml)
    assert [entry["serial"] for entry in added] == serials(xml)
    assert {entry["machine"] for entry in added} == {found["node"]["machine"]}
    assert {entry["source"] for entry in added} == {f"gpu-operator/{found['source']['pod']}"}
    assert {entry["driver"] for entry in added} == {found["driverVersion"]}
    assert found["history"][2]["seen"] == [{"serial": serial} for serial in sorted(serials(xml))]
    eventually(lambda: delivered(fleet, node))
    assert events(fleet, node) == {}
    records = [one for one in operator.records() if one["node"] == node]
    uid, at = inventory(fleet, node)["metadata"]["uid"], found["history"][2]["time"]
    assert [(one["gpu"], one["event"], one["time"]) for one in records] == [
        (serial, "Sighted", at) for serial in sorted(serials(xml))
    ]
    assert [one["id"].split(".")[:2] for one in records] == [[uid, "3"]] * 2
    assert {one["chassis"] for one in records} == {"unknown"}


def delivered(fleet: LocalCluster, node: str) -> None:
    found = status(fleet, node)
    (sink,) = found["sinks"]
    assert (sink["deliveredSequence"], sink["pending"]) == (found["sequence"], 0)
    assert condition(fleet, node, "Delivered") == ("True", "Delivered")


def test_a_swapped_gpu_is_there_within_moments(
    fleet: LocalCluster, node: str, change: Callable[[str], list[dict[str, Any]]]
) -> None:
    before = fleet.smi_file(node).read_text()
    after = swapped(before, 1, "gpu-spare")
    entries = change(after)
    old, new = facts(before)[1], facts(after)[1]
    assert types(entries) == ["GPURemoved", "GPUAdded"]
    assert [entry["uuid"] for entry in entries] == [old["uuid"], new["uuid"]]
    assert {entry["pciAddress"] for entry in entries} == {old["pciAddress"]}
    assert status(fleet, node)["gpus"] == facts(after)

    def labelled() -> None:
        assert lookup(fleet, node) == {
            **{f"uuid.{LABELS}/{uuid}": "present" for uuid in uuids(after)},
            **{f"serial.{LABELS}/{serial}": "present" for serial in serials(after)},
            f"uuid.{LABELS}/{old['uuid']}": "past",
            f"serial.{LABELS}/{old['serial']}": "past",
        }
        first, second = sorted(serials(after))
        assert node_labels(fleet, node) == {"gpu-0": first, "gpu-1": second}

    eventually(labelled)

    def told() -> None:
        found = events(fleet, node)
        assert {reason: event["type"] for reason, event in found.items()} == {
            "GPURemoved": "Warning",
            "GPUAdded": "Normal",
        }
        assert str(old["serial"]) in found["GPURemoved"]["message"]
        assert found["GPURemoved"]["involvedObject"]["kind"] == "GPUInventory"
        described = fleet.kubectl("describe", "gpuinventory", node).stdout
        assert "GPURemoved" in described.split("Events:")[1]

    eventually(told)


def test_a_moved_gpu_is_the_same_gpu(
    fleet: LocalCluster, node: str, change: Callable[[str], list[dict[str, Any]]]
) -> None:
    before = fleet.smi_file(node).read_text()
    after = moved(before, 0, "E1")
    (entry,) = change(after)
    assert entry["type"] == "GPUMoved"
    assert entry["uuid"] == uuids(before)[0]
    assert (entry["from"], entry["to"]) == ("00000000:53:00.0", "00000000:E1:00.0")
    assert status(fleet, node)["gpus"] == sorted(
        facts(after), key=lambda gpu: str(gpu["pciAddress"])
    )


def test_a_lost_gpu_stays_and_comes_back(
    fleet: LocalCluster, node: str, change: Callable[[str], list[dict[str, Any]]]
) -> None:
    before = fleet.smi_file(node).read_text()
    entries = change(lost(before, 1))
    assert types(entries) == ["GPULost"]
    assert entries[0]["serial"] == serials(before)[1]
    found = status(fleet, node)
    assert [gpu["state"] for gpu in found["gpus"]] == ["OK", "Lost"]
    assert [gpu["serial"] for gpu in found["gpus"]] == serials(before)
    assert found["gpuCount"] == 2
    assert condition(fleet, node, "Healthy") == ("False", "GPUUnhealthy")
    eventually(lambda: has_event(fleet, node, "GPULost", "Warning"))
    assert types(change(before)) == ["GPURecovered"]
    assert status(fleet, node)["gpus"] == facts(before)
    assert condition(fleet, node, "Healthy") == ("True", "GPUsHealthy")


def has_event(fleet: LocalCluster, node: str, reason: str, severity: str) -> None:
    found = events(fleet, node)
    assert reason in found and found[reason]["type"] == severity


def test_a_missing_gpu_is_gone_when_a_second_read_agrees(
    fleet: LocalCluster, node: str, operator: Operator
) -> None:
    xml = fleet.smi_file(node).read_text()
    before = status(fleet, node)
    runs = len(fleet.exec_log(node))
    fleet.write_smi(node, without(xml, 1))
    fleet.restart_plugin(node)

    def read_once() -> None:
        assert len(fleet.exec_log(node)) == runs + 1
        assert any(
            line["msg"].startswith("found GPUs missing") and line["node"] == node
            for line in operator.lines()
        )

    eventually(read_once)
    during = status(fleet, node)
    kept = ("gpus", "source", "lastReadTime", "history")
    assert {key: during[key] for key in kept} == {key: before[key] for key in kept}

    def gone() -> None:
        assert types(history(fleet, node)) == ["GPUAdded", "GPUAdded", "GPURemoved"]

    eventually(gone)
    first, second = fleet.exec_log(node)[runs:]
    assert second - first >= 9.9
    assert history(fleet, node)[2]["uuid"] == uuids(xml)[1]
    assert status(fleet, node)["gpus"] == facts(xml)[:1]


def test_a_gpu_that_was_missing_for_a_moment_is_not_gone(
    fleet: LocalCluster, node: str, operator: Operator
) -> None:
    xml = fleet.smi_file(node).read_text()
    fleet.write_smi(node, without(xml, 0))
    read_again(fleet, node, "missing")
    fleet.write_smi(node, xml)
    read_again(fleet, node, "back")
    assert types(history(fleet, node)) == ["GPUAdded", "GPUAdded"]
    # The next absence is a new one: the first read of it tells nothing.
    fleet.write_smi(node, without(xml, 0))
    read_again(fleet, node, "missing again")
    assert types(history(fleet, node)) == ["GPUAdded", "GPUAdded"]
    fleet.write_smi(node, xml)
    read_again(fleet, node, "back again")


def test_after_a_reboot_what_is_missing_is_gone_at_once(
    fleet: LocalCluster, node: str, change: Callable[[str], list[dict[str, Any]]]
) -> None:
    xml = fleet.smi_file(node).read_text()
    path = f"/api/v1/nodes/{node}/status"
    body = {"status": {"nodeInfo": fleet.client.get(f"/api/v1/nodes/{node}")["status"]["nodeInfo"]}}
    body["status"]["nodeInfo"]["bootID"] = "00000000-0000-4000-8000-000000000001"
    fleet.client.send(Request("PATCH", path, body, content_type=MERGE))
    (entry,) = change(without(xml, 0))
    assert (entry["type"], entry["uuid"]) == ("GPURemoved", uuids(xml)[0])
    assert status(fleet, node)["node"]["bootID"] == "00000000-0000-4000-8000-000000000001"


def test_a_driver_upgrade_is_no_swap(
    fleet: LocalCluster, node: str, change: Callable[[str], list[dict[str, Any]]]
) -> None:
    old = status(fleet, node)["driverVersion"]
    for driver in ("580.65.06", "615.10.01", "470.82.01"):
        entries = change(machine(node, driver=driver))
        assert types(entries) == ["DriverChanged"]
        assert (entries[0]["from"], entries[0]["to"]) == (old, driver)
        assert [gpu["uuid"] for gpu in status(fleet, node)["gpus"]] == uuids(machine(node))
        old = driver


def test_an_inventory_that_was_deleted_by_hand_is_created_again(
    fleet: LocalCluster, node: str
) -> None:
    before = inventory(fleet, node)
    fleet.kubectl("delete", "gpuinventory", node)

    def created_again() -> None:
        after = inventory(fleet, node)
        assert after["metadata"]["uid"] != before["metadata"]["uid"]
        assert after.get("status", {}).get("gpus") == before["status"]["gpus"]
        delivered(fleet, node)

    eventually(created_again)
    assert types(history(fleet, node)) == ["GPUAdded", "GPUAdded"]
