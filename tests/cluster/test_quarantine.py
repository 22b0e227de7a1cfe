"""A part that is condemned stays condemned wherever it turns up."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.crds import delete_crds
from tests.support.operators import (
    Operator,
    condition,
    eventually,
    history,
    inventory,
    read_well,
    status,
    types,
)
from tests.support.quarantines import (
    QUARANTINES,
    TAINT,
    condemn,
    lift,
    manifest,
    marks,
    matching_nodes,
    quarantine_condition,
    quarantine_status,
    set_taints,
    taints,
    told,
)
from tests.support.smi_fixtures import machine, serials, swapped, uuids

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OURS = "gpuid.github.com"
SETTINGS: dict[str, Any] = {
    "QUARANTINE_TAINTS": "true",
    "QUARANTINE_MAX_NODES": "2",
    "TIMEOUT": "5s",
}
FOREIGN = ("nvidia.com/gpu", "present", "NoSchedule")
LEASE: dict[str, Any] = {
    "LEADER_ELECTION": "true",
    "POD_NAMESPACE": "gpuid",
    "LEASE_DURATION": "3s",
    "LEASE_RENEW_DEADLINE": "2s",
    "LEASE_RETRY_PERIOD": "500ms",
}


@pytest.fixture(scope="module")
def elsewhere(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    """A second cluster."""
    cluster = local_cluster(nodes=0)
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def operator(fleet: LocalCluster) -> Iterator[Operator]:
    """The operator on `fleet`, which may taint two nodes."""
    with Operator(fleet, **SETTINGS) as operator:
        yield operator


def part(xml: str, index: int = 0) -> dict[str, str]:
    return {"serial": serials(xml)[index]}


def replace(cluster: LocalCluster, node: str, xml: str) -> None:
    """Give a node other hardware, and wait until that is read and delivered."""
    cluster.write_smi(node, xml)
    container = cluster.restart_plugin(node)

    def read() -> None:
        assert status(cluster, node)["source"]["containerID"] == container

    eventually(read)
    eventually(lambda: read_well(cluster, node))


def marked_with_its_read(cluster: LocalCluster, node: str, serial: str, name: str) -> None:
    """The mark is of the same write as the GPU: no status had the part without it."""
    entries = [entry for entry in history(cluster, node) if entry.get("serial") == serial]
    added = [entry for entry in entries if entry["type"] == "GPUAdded"][-1]
    noted = [entry for entry in entries if entry["type"] == "GPUQuarantined"][-1]
    assert noted["to"] == name
    assert added["time"] == noted["time"]
    assert all(gpu.get("quarantines") == [name] for gpu in gpus_with(cluster, node, serial))


def gpus_with(cluster: LocalCluster, node: str, serial: str) -> list[dict[str, Any]]:
    found = [gpu for gpu in status(cluster, node)["gpus"] if gpu.get("serial") == serial]
    assert found, f"{node} has no GPU with serial {serial}"
    return found


def records(operator: Operator, node: str) -> list[str]:
    return [
        record["event"]
        for record in operator.records()
        if record["node"] == node and record["event"] in ("GPUQuarantined", "GPUReleased")
    ]


def events(cluster: LocalCluster, name: str) -> list[tuple[str, str]]:
    found = cluster.client.get(
        "/api/v1/namespaces/default/events", fieldSelector=f"involvedObject.name={name}"
    )["items"]
    return [(event["type"], event["reason"]) for event in found]


def test_a_condemned_part_is_flagged_on_each_node_and_in_each_cluster(
    fleet: LocalCluster, elsewhere: LocalCluster, operator: Operator
) -> None:
    first, second = machine("gpu-swap-1"), machine("gpu-swap-2")
    serial = serials(first)[0]
    same_file = json.dumps(manifest("rma-48213", part(first)))
    with Operator(elsewhere) as other:
        for cluster in (fleet, elsewhere):
            cluster.add_node("gpu-swap-2", xml=second)
            cluster.kubectl("apply", "-f", "-", input=same_file)
        fleet.add_node("gpu-swap-1", xml=first)
        eventually(lambda: marked_with_its_read(fleet, "gpu-swap-1", serial, "rma-48213"))
        assert condition(fleet, "gpu-swap-1", "Quarantined") == ("True", "Quarantined")
        eventually(lambda: matches(fleet, "rma-48213", ["gpu-swap-1"]))
        eventually(lambda: matches(elsewhere, "rma-48213", []))
        assert quarantine_condition(elsewhere, "rma-48213", "Present")[0] == "False"

        # From node to node.
        replace(fleet, "gpu-swap-1", swapped(first, 0, "gpu-spare"))
        replace(fleet, "gpu-swap-2", swapped(second, 0, "gpu-swap-1"))
        eventually(lambda: marked_with_its_read(fleet, "gpu-swap-2", serial, "rma-48213"))
        eventually(lambda: matches(fleet, "rma-48213", ["gpu-swap-2"]))
        assert condition(fleet, "gpu-swap-1", "Quarantined") == ("False", "Released")
        assert told(fleet, "gpu-swap-1") == [("GPUQuarantined", "rma-48213")]

        # And into the other cluster.
        replace(fleet, "gpu-swap-2", second)
        replace(elsewhere, "gpu-swap-2", swapped(second, 0, "gpu-swap-1"))
        eventually(lambda: marked_with_its_read(elsewhere, "gpu-swap-2", serial, "rma-48213"))
        eventually(lambda: matches(elsewhere, "rma-48213", ["gpu-swap-2"]))
        eventually(lambda: matches(fleet, "rma-48213", []))
        table = elsewhere.kubectl("get", "gpuq", "rma-48213", "--no-headers").stdout.split()
        assert table[:3] == ["rma-48213", "True", "1"]
        head, row = elsewhere.kubectl("get", "gpuinv", "gpu-swap-2", "-o", "wide").stdout.split(
            "\n", 1
        )
        assert (head.split()[-1], row.split()[-1]) == ("QUARANTINED", "True")
        eventually(lambda: has_event(elsewhere, "gpu-swap-2", ("Warning", "GPUQuarantined")))
        gauge = f'serial="{serial}",quarantine="rma-48213"}} 1.0'
        assert gauge in other.get("/metrics")[1]
        assert gauge not in operator.get("/metrics")[1]

        # A restart tells nothing again.
        before = inventory(elsewhere, "gpu-swap-2")["metadata"]["resourceVersion"]
        said = quarantine_status(elsewhere, "rma-48213")
        other.terminate()
        other.restart()
        condemn(elsewhere, "later", {"serial": "of-no-part"})
        eventually(lambda: matches(elsewhere, "later", []))
        assert inventory(elsewhere, "gpu-swap-2")["metadata"]["resourceVersion"] == before
        assert quarantine_status(elsewhere, "rma-48213") == said
    lift(fleet, "rma-48213")


def matches(cluster: LocalCluster, name: str, nodes: list[str]) -> None:
    assert matching_nodes(cluster, name) == nodes


def has_event(cluster: LocalCluster, name: str, event: tuple[str, str]) -> None:
    assert event in events(cluster, name)


def are_marked(cluster: LocalCluster, node: str, wanted: list[list[str]]) -> None:
    assert marks(cluster, node) == wanted


def has_taints(cluster: LocalCluster, node: str, *wanted: tuple[str, str, str]) -> None:
    assert taints(cluster, node) == list(wanted)


def is_ready(cluster: LocalCluster, name: str, wanted: tuple[str, str]) -> None:
    assert quarantine_condition(cluster, name) == wanted


@pytest.fixture
def nodes(fleet: LocalCluster, operator: Operator) -> list[str]:
    """Three nodes that were read, with a taint that is not ours."""
    names = [f"gpu-guard-{number}" for number in (1, 2, 3)]
    known = set(fleet.node_names)
    for name in names:
        if name not in known:
            fleet.add_node(name, xml=machine(name))
            set_taints(fleet, name, FOREIGN)
    for name in names:
        eventually(partial(read_well, fleet, name))
    return names


def test_taints_come_go_and_are_limited(fleet: LocalCluster, nodes: list[str]) -> None:
    parts = [part(machine(name)) for name in nodes]
    condemn(fleet, "a", parts[0], action="Taint")
    eventually(lambda: has_taints(fleet, nodes[0], FOREIGN, (TAINT, "a", "NoSchedule")))
    eventually(lambda: is_ready(fleet, "a", ("True", "InForce")))

    # The third node is one too many.
    condemn(fleet, "b", *parts, action="Taint")
    eventually(lambda: is_ready(fleet, "b", ("False", "TaintsHalted")))
    eventually(lambda: has_event(fleet, "b", ("Warning", "TaintsHalted")))

    def two_are_tainted() -> None:
        tainted = [name for name in nodes if TAINT in [key for key, _, _ in taints(fleet, name)]]
        assert tainted == nodes[:2]

    eventually(two_are_tainted)  # the status does not wait for the taint
    assert matching_nodes(fleet, "b") == nodes

    # Another taint comes, the quarantine goes: the other one asks for the first node, too.
    added = ("example.com/maintenance", "", "NoExecute")
    set_taints(fleet, nodes[0], *taints(fleet, nodes[0]), added)
    lift(fleet, "a")
    eventually(lambda: has_taints(fleet, nodes[0], FOREIGN, added, (TAINT, "b", "NoSchedule")))
    lift(fleet, "b")
    eventually(lambda: has_taints(fleet, nodes[0], FOREIGN, added))
    eventually(lambda: has_taints(fleet, nodes[1], FOREIGN))
    for name in nodes:
        eventually(partial(are_marked, fleet, name, [[], []]))
        assert told(fleet, name)[-1][0] == "GPUReleased"
    set_taints(fleet, nodes[0], FOREIGN)


def test_until_ends_a_quarantine(fleet: LocalCluster, nodes: list[str]) -> None:
    xml = machine(nodes[0])
    condemn(fleet, "past", part(xml), until="2020-01-01T00:00:00Z")
    eventually(lambda: is_ready(fleet, "past", ("False", "Expired")))
    assert marks(fleet, nodes[0]) == [[], []]
    patch = json.dumps({"spec": {"until": "2100-01-01T00:00:00+02:00"}})
    fleet.kubectl("patch", "gpuq", "past", "--type=merge", "-p", patch)
    eventually(lambda: are_marked(fleet, nodes[0], [["past"], []]))
    eventually(lambda: is_ready(fleet, "past", ("True", "InForce")))
    lift(fleet, "past")
    eventually(lambda: are_marked(fleet, nodes[0], [[], []]))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"parts": [], "reason": "x"}, "spec.parts"),
        ({"parts": [{}], "reason": "x"}, "exactly one of uuid, serial, chassis"),
        (
            {"parts": [{"serial": "1", "chassis": "2"}], "reason": "x"},
            "exactly one of uuid, serial, chassis",
        ),
        ({"parts": [{"serial": "na"}], "reason": "x"}, "not a word for an unknown"),
        ({"parts": [{"serial": " N/A "}], "reason": "x"}, "not a word for an unknown"),
        ({"parts": [{"uuid": "1652823054567"}], "reason": "x"}, "spec.parts[0].uuid"),
        ({"parts": [{"serial": "1"}]}, "spec.reason"),
        ({"parts": [{"serial": "1"}], "reason": "x", "until": "tomorrow"}, "spec.until"),
        ({"parts": [{"serial": "1"}], "reason": "x", "action": "Evict"}, "spec.action"),
        *(
            ({"parts": [{"serial": "1"}], "reason": "x", "until": until}, "such as 2027-01-31T00")
            for until in (
                *("0001-01-01T00:00:00+01:00", "0000-01-01T00:00:00Z", "1969-12-31T23:59:59Z"),
                *("9999-12-31T23:59:59-01:00", "1970-01-01T00:00:00+00:01"),
                *("2027-01-01T00:00:00+99:99", "2027-01-01t00:00:00z"),
            )
        ),
    ],
)
def test_bad_input_is_refused_with_words_that_help(
    fleet: LocalCluster, spec: dict[str, Any], words: str
) -> None:
    body = manifest("bad") | {"spec": spec}
    done = fleet.kubectl("create", "-f", "-", input=json.dumps(body), check=False)
    assert done.returncode != 0
    assert words in done.stderr


@pytest.mark.parametrize(
    ("until", "ready"),
    [
        ("1970-01-01T00:00:00Z", ("False", "Expired")),
        ("9999-12-31T23:59:59.9Z", ("True", "InForce")),
        ("9999-12-31T23:59:59+23:59", ("True", "InForce")),
        ("2027-01-01T00:00:00+24:00", ("False", "NotUnderstood")),
    ],
)
def test_an_until_at_the_edge_has_its_condition(
    fleet: LocalCluster, operator: Operator, until: str, ready: tuple[str, str]
) -> None:
    condemn(fleet, "edge", {"serial": "of-no-part"}, until=until)
    eventually(lambda: is_ready(fleet, "edge", ready))
    lift(fleet, "edge")


def test_a_node_that_hangs_departs_and_returns(fleet: LocalCluster, nodes: list[str]) -> None:
    node = nodes[2]
    xml = machine(node)
    fleet.set_behaviour(node, hang=True)
    fleet.restart_plugin(node)
    condemn(fleet, "hung", {"uuid": uuids(xml)[1]})
    eventually(lambda: are_marked(fleet, node, [[], ["hung"]]))
    fleet.set_behaviour(node)
    fleet.delete_node(node)

    def departed() -> None:
        assert status(fleet, node)["state"] == "Departed"
        assert marks(fleet, node) == [[], []]

    eventually(departed)
    assert condition(fleet, node, "Quarantined") == ("False", "NodeDeparted")
    eventually(lambda: matches(fleet, "hung", []))
    fleet.add_node(node, xml=xml)
    eventually(lambda: are_marked(fleet, node, [[], ["hung"]]))
    marked_with_its_read(fleet, node, serials(xml)[1], "hung")
    assert told(fleet, node)[-2:] == [("GPUQuarantined", "hung")] * 2
    lift(fleet, "hung")
    eventually(lambda: are_marked(fleet, node, [[], []]))


def test_the_next_leader_continues_and_tells_nothing_again(elsewhere: LocalCluster) -> None:
    node = "gpu-leader"
    xml = machine(node)
    elsewhere.add_node(node, xml=xml)
    condemn(elsewhere, "lead", part(xml))
    with Operator(elsewhere, POD_NAME="first", **LEASE) as first:
        eventually(lambda: are_marked(elsewhere, node, [["lead"], []]))
        eventually(lambda: read_well(elsewhere, node))
        with Operator(elsewhere, POD_NAME="second", **LEASE) as second:
            first.signal(signal.SIGSTOP)
            eventually(lambda: leads(second))
            condemn(elsewhere, "next", part(xml, 1))
            eventually(lambda: are_marked(elsewhere, node, [["lead"], ["next"]]))
            first.signal(signal.SIGCONT)
            assert first.process.wait(30) == 3
            lift(elsewhere, "lead")
            eventually(lambda: are_marked(elsewhere, node, [[], ["next"]]))
            assert told(elsewhere, node) == [
                ("GPUQuarantined", "lead"),
                ("GPUQuarantined", "next"),
                ("GPUReleased", "lead"),
            ]
            eventually(lambda: read_well(elsewhere, node))
    assert types(history(elsewhere, node)).count("GPUAdded") == 2


def leads(operator: Operator) -> None:
    assert operator.get("/readyz") == (200, "leading\n")


def test_the_crd_may_go_and_come_while_the_operator_works(elsewhere: LocalCluster) -> None:
    name = f"gpuquarantines.{OURS}"
    crd = elsewhere.client.get(f"{CRDS}/{name}")
    crd["metadata"] = {"name": name}
    crd.pop("status")
    node = "gpu-without"
    xml = machine(node)
    for known in elsewhere.client.get(QUARANTINES)["items"]:
        lift(elsewhere, known["metadata"]["name"])
    with Operator(elsewhere, periods={"quarantine_look": 1.0}) as operator:
        delete_crds(elsewhere, name)
        eventually(lambda: logged(operator, "GPUQuarantine is not served"), within=90)
        elsewhere.add_node(node, xml=xml)
        eventually(lambda: read_well(elsewhere, node), within=90)
        elsewhere.client.send(Request("POST", CRDS, crd))
        eventually(lambda: is_created(elsewhere, manifest("late", part(xml))))
        eventually(lambda: are_marked(elsewhere, node, [["late"], []]), within=60)
        eventually(lambda: leads(operator))
        # It is watched from then on.
        lift(elsewhere, "late")
        eventually(lambda: are_marked(elsewhere, node, [[], []]))


def is_created(cluster: LocalCluster, body: dict[str, Any]) -> None:
    """The API server takes it; for moments after the CRD, it answers lists and refuses objects."""
    request = Request("POST", QUARANTINES, body, tolerate=(404,))
    assert cluster.client.send(request) is not None


def logged(operator: Operator, message: str) -> None:
    assert any(message in line["msg"] for line in operator.lines())
