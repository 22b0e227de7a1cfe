"""The operator is killed at each write that a quarantine leads to; nothing is lost or doubled."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.api_fault_proxy import ApiFaultProxy, Position
from tests.support.crashes import is_quiet, is_watched, kill_at
from tests.support.operators import (
    POLICIES,
    Operator,
    condition,
    eventually,
    history,
    read_well,
    status,
)
from tests.support.quarantines import (
    QUARANTINES,
    TAINT,
    condemn,
    lift,
    marks,
    matching_nodes,
    quarantine_condition,
    taints,
)
from tests.support.smi_fixtures import machine, serials

NODE = "gpu-crash"
SERIAL = serials(machine(NODE))[0]
FOREIGN = ("nvidia.com/gpu", "present", "NoSchedule")
"""Simulated nodes have it."""
SETTINGS: dict[str, Any] = {"QUARANTINE_TAINTS": "true", "QUARANTINE_MAX_NODES": "1"}


def condemned(fleet: LocalCluster) -> None:
    """All that follows from the quarantine is written."""
    assert marks(fleet, NODE) == [["rma"], []]
    assert condition(fleet, NODE, "Quarantined") == ("True", "Quarantined")
    assert taints(fleet, NODE) == [FOREIGN, (TAINT, "rma", "NoSchedule")]
    assert matching_nodes(fleet, "rma") == [NODE]
    assert quarantine_condition(fleet, "rma") == ("True", "InForce")
    delivered(fleet)


def released(fleet: LocalCluster) -> None:
    """All that follows from its end is written."""
    assert marks(fleet, NODE) == [[], []]
    assert condition(fleet, NODE, "Quarantined") == ("False", "Released")
    assert taints(fleet, NODE) == [FOREIGN]
    delivered(fleet)


def delivered(fleet: LocalCluster) -> None:
    assert [sink["pending"] for sink in status(fleet, NODE)["sinks"]] == [0]


def records(operator: Operator) -> list[dict[str, Any]]:
    """The records about quarantine, each once: the same id has the same content."""
    known: dict[str, dict[str, Any]] = {}
    for record in operator.records():
        if record["event"] in ("GPUQuarantined", "GPUReleased"):
            assert known.setdefault(record["id"], record) == record
    return list(known.values())


def has_written(proxy: ApiFaultProxy, count: int) -> None:
    assert len(proxy.writes) >= count


def test_a_kill_at_any_write_loses_and_doubles_nothing(fleet: LocalCluster) -> None:
    every_change = {"name": "log", "stdout": {}, "records": "changes", "batch": {"maxWait": "0s"}}
    policy = {
        "apiVersion": "gpuid.github.com/v1alpha1",
        "kind": "GPUInventoryPolicy",
        "metadata": {"name": "log"},
        "spec": {"sinks": [every_change]},
    }
    fleet.client.send(Request("POST", POLICIES, policy))
    fleet.add_node(NODE, xml=machine(NODE))
    steps = [
        (partial(condemn, fleet, "rma", {"serial": SERIAL}, action="Taint"), condemned),
        (partial(lift, fleet, "rma"), released),
    ]
    with (
        ApiFaultProxy(fleet) as proxy,
        Operator(fleet, kubeconfig=proxy.kubeconfig, **SETTINGS) as operator,
    ):
        eventually(lambda: is_watched(proxy))
        eventually(lambda: read_well(fleet, NODE))
        counts = []
        # Status and cursor, taint, the quarantine's own status where there is one, an Event.
        for (does, through), least in zip(steps, (5, 4), strict=True):
            before = len(proxy.writes)
            does()
            eventually(partial(through, fleet))
            eventually(partial(has_written, proxy, before + least))
            eventually(lambda: is_quiet(proxy))
            counts.append(len(proxy.writes) - before)
        rounds = 1
        kills: Counter[str] = Counter()
        for position in (Position.BEFORE, Position.AFTER):
            for skip in range(max(counts)):
                rounds += 1
                for does, through in steps:
                    at, _ = kill_at(
                        proxy,
                        operator,
                        skip,
                        position,
                        does=does,
                        settled=partial(through, fleet),
                    )
                    kills[at.partition(" ")[0]] += 1
                    eventually(partial(through, fleet))
                    eventually(lambda: is_quiet(proxy))
        assert kills["BEFORE"] >= 8 and kills["AFTER"] >= 8, kills
        said = records(operator)
        assert [record["event"] for record in said] == ["GPUQuarantined", "GPUReleased"] * rounds
        assert {record["gpu"] for record in said} == {SERIAL}
        assert len({record["sequence"] for record in said}) == 2 * rounds
        assert status(fleet, NODE)["sequence"] == max(record["sequence"] for record in said)
        assert history(fleet, NODE)[-1]["sequence"] == status(fleet, NODE)["sequence"]
    assert fleet.client.get(QUARANTINES)["items"] == []
