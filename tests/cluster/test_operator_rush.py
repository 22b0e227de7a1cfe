"""Many new nodes at once: each is listed before any is noted as delivered."""

from __future__ import annotations

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support import audit
from tests.support.operators import POLICIES, Operator, condition, eventually
from tests.support.smi_fixtures import machine

NODES = [f"gpu-rush-{number}" for number in range(4)]
SINKS = ("one", "two", "three")
POLICY = {
    "apiVersion": "gpuid.github.com/v1alpha1",
    "kind": "GPUInventoryPolicy",
    "metadata": {"name": "rush"},
    "spec": {
        "nodeLabels": False,
        "sinks": [{"name": name, "stdout": {}, "batch": {"maxWait": "1ms"}} for name in SINKS],
    },
}


def status_writes(fleet: LocalCluster) -> list[str]:
    """The nodes whose status was written, one after the other."""
    return [
        event["objectRef"]["name"]
        for event in audit.events(fleet)
        if event["verb"] == "patch" and event["objectRef"]["resource"] == "gpuinventories"
    ]


def test_deliveries_are_noted_when_no_node_waits_and_those_of_a_node_together(
    fleet: LocalCluster,
) -> None:
    fleet.client.send(Request("POST", POLICIES, POLICY))
    for name in NODES:
        fleet.add_node(name, xml=machine(name))
        fleet.set_behaviour(name, delay=1)
    with Operator(fleet, WORKERS="1") as operator:

        def delivered() -> None:
            for name in NODES:
                assert condition(fleet, name, "Delivered") == ("True", "Delivered")

        eventually(delivered)
    written = status_writes(fleet)
    first = written[0]
    # The last node's turn came when the one before it was written.
    assert set(written[:3]) < set(NODES) and len(set(written[:3])) == 3
    assert written.count(first) == 2
    taken = [record for record in operator.records() if record["node"] == first]
    assert len(taken) == 2 * len(SINKS)
