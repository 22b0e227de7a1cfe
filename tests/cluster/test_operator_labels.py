"""Look-up labels of inventories, and the labels of Nodes that gpuid users know."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.smi import generate
from tests.support.operators import Operator, eventually, node_labels, read_well, status
from tests.support.smi_fixtures import serials, swapped

LABELS = "gpuid.github.com"
CHASSIS = "<chassis_serial_number>(.*)</chassis_serial_number>"


def test_a_serial_is_looked_up_by_a_label(
    fleet: LocalCluster, node: str, change: Callable[[str], list[dict[str, Any]]]
) -> None:
    xml = fleet.smi_file(node).read_text()
    gone = serials(xml)[0]
    change(swapped(xml, 0, f"{node}-spare"))
    other = f"{node}-other"
    fleet.add_node(other, xml=xml)
    label = f"serial.{LABELS}/{gone}"

    def found() -> None:
        table = fleet.kubectl("get", "gpuinventory", "-l", label, "-L", label).stdout
        rows = [line.split() for line in table.splitlines()[1:]]
        assert {row[0]: row[-1] for row in rows} == {node: "past", other: "present"}

    eventually(found)


def test_gpus_of_one_board_share_a_serial_and_stay_two(
    fleet: LocalCluster, operator: Operator
) -> None:
    node = "gpu-rack-0007"
    xml = generate("gb200", node=node, pad_to=0)
    fleet.add_node(node, xml=xml)
    eventually(lambda: read_well(fleet, node))
    found = status(fleet, node)
    assert len(found["gpus"]) == 4
    assert found["serials"] == sorted(set(serials(xml))) and len(found["serials"]) == 2
    (chassis,) = found["chassis"]

    def labelled() -> None:
        assert node_labels(fleet, node) == {
            "chassis": chassis,
            "chassis-count": "1",
            "gpu-0": found["serials"][0],
            "gpu-1": found["serials"][1],
        }

    eventually(labelled)
    records = [one for one in operator.records() if one["node"] == node]
    assert [(one["chassis"], one["gpu"]) for one in records] == [
        (chassis, serial) for serial in found["serials"]
    ]


def test_a_known_chassis_beside_none_is_labelled_as_gpuid_does(
    fleet: LocalCluster, operator: Operator
) -> None:
    node = "gpu-half-a-rack"
    xml = generate("gb200", node=node, pad_to=0)
    (chassis,) = set(re.findall(CHASSIS, xml))
    last = xml.rindex(f">{chassis}<")
    xml = xml[:last] + xml[last:].replace(chassis, "N/A")
    fleet.add_node(node, xml=xml)
    first, second = sorted(set(serials(xml)))
    eventually(lambda: read_well(fleet, node))
    expected = {"chassis-0": chassis, "chassis-count": "1"}
    expected |= {"chassis-0-gpu-0": first, "chassis-0-gpu-1": second, "gpu-0": serials(xml)[-1]}
    eventually(lambda: has_labels(fleet, node, expected))


def test_stale_labels_go_and_those_of_others_stay(
    fleet: LocalCluster, node: str, change: Callable[[str], list[dict[str, Any]]]
) -> None:
    xml = fleet.smi_file(node).read_text()
    expected = dict(zip(("gpu-0", "gpu-1"), sorted(serials(xml)), strict=True))
    eventually(lambda: has_labels(fleet, node, expected))
    fleet.kubectl(
        *["label", "--overwrite", "node", node, f"{LABELS}/gpu-7=1234", f"{LABELS}/gpu-0=wrong"],
        *[f"{LABELS}/chassis-0-gpu-1=5", "other.example/gpu-0=mine", f"x.{LABELS}/gpu-0=mine"],
    )
    assert change(xml) == []
    eventually(lambda: has_labels(fleet, node, expected))
    labels = fleet.client.get(f"/api/v1/nodes/{node}")["metadata"]["labels"]
    assert labels["other.example/gpu-0"] == labels[f"x.{LABELS}/gpu-0"] == "mine"


def has_labels(fleet: LocalCluster, node: str, expected: dict[str, str]) -> None:
    assert node_labels(fleet, node) == expected


def test_labels_are_written_though_the_node_changes_meanwhile(
    fleet: LocalCluster, node: str
) -> None:
    after = swapped(fleet.smi_file(node).read_text(), 0, f"{node}-spare")
    runs = len(fleet.exec_log(node))
    fleet.set_behaviour(node, delay=0.5)
    fleet.write_smi(node, after)
    fleet.restart_plugin(node)

    def reading() -> None:
        assert len(fleet.exec_log(node)) > runs

    # The node's facts are those of before the read; this makes their resourceVersion an old one.
    eventually(reading)
    fleet.kubectl("annotate", "node", node, f"example.com/at={time.time()}")
    fleet.clear_behaviour(node)
    expected = dict(zip(("gpu-0", "gpu-1"), sorted(serials(after)), strict=True))
    eventually(lambda: has_labels(fleet, node, expected))
