"""One GPU in the inventories of two nodes, on a real API server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from gpuid_operator.cli.plugin import PROGRAM, cli
from gpuid_operator.localcluster import LocalCluster
from tests.support.operators import (
    Operator,
    condition,
    condition_types,
    eventually,
    history,
    read_well,
    status,
)
from tests.support.smi_fixtures import bodies, machine, uuids, with_bodies


@pytest.fixture
def pair(fleet: LocalCluster, operator: Operator) -> Iterator[tuple[str, str]]:
    """Two nodes with two GPUs each that were read; in the end nobody else has their GPUs."""
    names = tuple(f"gpu-twin-{len(fleet.node_names) + number}" for number in range(2))
    for name in names:
        fleet.add_node(name, xml=machine(name))
    for name in names:
        eventually(lambda name=name: read_well(fleet, name))  # type: ignore[misc]
    yield names[0], names[1]
    for name in names:
        fleet.write_smi(name, machine(name))
        fleet.restart_plugin(name)


def in_place_of_the_first(name: str, other: str) -> str:
    """What the machine prints when the first GPU of another one sits in the place of its own."""
    _, second = bodies(machine(name))
    first, _ = bodies(machine(other))
    return with_bodies(machine(name), [first, second])


def listed(fleet: LocalCluster, node: str) -> list[str]:
    return [gpu["uuid"] for gpu in status(fleet, node)["gpus"]]


def where(fleet: LocalCluster, uuid: str) -> Result:
    words = ["where", uuid, "--kubeconfig", str(fleet.kubeconfig)]
    return CliRunner().invoke(cli, words, prog_name=PROGRAM)


def test_a_swap_of_two_nodes_shows_itself(fleet: LocalCluster, pair: tuple[str, str]) -> None:
    one, other = pair
    swapped = {one: in_place_of_the_first(one, other), other: in_place_of_the_first(other, one)}
    for name, xml in swapped.items():
        fleet.write_smi(name, xml)
    # Something happens on the first node only. Its new GPU leads to the other one.
    fleet.restart_plugin(one)

    def both_moved() -> None:
        for name, xml in swapped.items():
            assert listed(fleet, name) == uuids(xml)
            last = history(fleet, name)[-2:]
            assert [entry["type"] for entry in last] == ["GPURemoved", "GPUAdded"]

    eventually(both_moved)
    for name in pair:
        assert "Unique" not in condition_types(fleet, name)


def test_a_gpu_that_two_nodes_have_is_flagged_on_both(
    fleet: LocalCluster, operator: Operator, pair: tuple[str, str]
) -> None:
    one, other = pair
    uuid = uuids(machine(one))[0]
    reads = len(fleet.exec_log(one))
    fleet.write_smi(other, in_place_of_the_first(other, one))
    fleet.restart_plugin(other)

    def flagged() -> None:
        for name in pair:
            assert condition(fleet, name, "Unique") == ("False", "SeenElsewhere")

    eventually(flagged)
    assert len(fleet.exec_log(one)) == reads + 1
    for name, elsewhere in ((one, other), (other, one)):
        (said,) = [c for c in status(fleet, name)["conditions"] if c["type"] == "Unique"]
        assert said["message"] == f"nvidia-smi lists {uuid} on {elsewhere}, too"

    def warned() -> None:
        for name in pair:
            described = fleet.kubectl("describe", "gpuinventory", name).stdout
            assert "SeenElsewhere" in described.split("Events:")[1]

    eventually(warned)
    assert "\ngpuid_duplicate_gpus 1.0\n" in operator.get("/metrics")[1]
    result = where(fleet, uuid)
    assert {line.split()[2] for line in result.stdout.splitlines()[1:]} == set(pair)
    assert f"warning: {uuid} is on {' and '.join(sorted(pair))} at the same time" in result.stderr
    fleet.write_smi(other, machine(other))
    fleet.restart_plugin(other)

    def unique() -> None:
        for name in pair:
            assert condition(fleet, name, "Unique") == ("True", "Unique")

    eventually(unique)
    assert "\ngpuid_duplicate_gpus 0.0\n" in operator.get("/metrics")[1]
