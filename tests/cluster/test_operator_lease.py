"""Two instances and one lease: one leads, the other waits for its end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.support.api_fault_proxy import ApiFaultProxy
from tests.support.operators import (
    Operator,
    condition,
    eventually,
    history,
    is_delivered,
    read_again,
    status,
    types,
)
from tests.support.smi_fixtures import facts, machine, swapped

NODE = "gpu-lease"
TIMES: dict[str, Any] = {
    "LEADER_ELECTION": "true",
    "POD_NAMESPACE": "gpuid",
    "LEASE_DURATION": "3s",
    "LEASE_RENEW_DEADLINE": "2s",
    "LEASE_RETRY_PERIOD": "500ms",
}
LEASE = "/apis/coordination.k8s.io/v1/namespaces/gpuid/leases/gpuid-operator"
LOST = 3
"""Exit code of a leader that could not keep its lease."""


@pytest.fixture(scope="module", autouse=True)
def node(fleet: LocalCluster) -> None:
    fleet.add_node(NODE, xml=machine(NODE))


def holder(fleet: LocalCluster) -> str:
    found = fleet.client.send(Request("GET", LEASE, tolerate=(404,)))
    return str(found["spec"].get("holderIdentity", "")) if found else ""


def leads(fleet: LocalCluster, name: str) -> None:
    assert holder(fleet).startswith(f"{name}_")


@contextmanager
def pair(
    fleet: LocalCluster, *, kubeconfig: Path | None = None, **variables: str
) -> Iterator[tuple[Operator, Operator]]:
    """A leader `first` and a standby `second`, both ready; `kubeconfig` is the leader's."""
    environment = TIMES | variables
    with Operator(fleet, kubeconfig=kubeconfig, POD_NAME="first", **environment) as first:
        eventually(lambda: is_leading(first))
        with Operator(fleet, POD_NAME="second", **environment) as second:
            leads(fleet, "first")
            assert second.get("/readyz") == (200, "standing by\n")
            yield first, second


def is_leading(operator: Operator) -> None:
    assert operator.get("/readyz") == (200, "leading\n")


def reads(fleet: LocalCluster, name: str) -> None:
    """The leader does the work."""
    xml = swapped(fleet.smi_file(NODE).read_text(), 0, name)
    fleet.write_smi(NODE, xml)
    fleet.restart_plugin(NODE)

    def shown() -> None:
        assert status(fleet, NODE)["gpus"] == facts(xml)

    eventually(shown)


def test_one_leads_and_the_other_does_nothing(fleet: LocalCluster) -> None:
    with pair(fleet) as (first, second):
        eventually(lambda: read_well(fleet))
        reads(fleet, "gpu-one")
        assert second.records() == []
        metrics = [one.get("/metrics")[1] for one in (first, second)]
        assert ["gpuid_leader 1.0" in text for text in metrics] == [True, False]
        assert all(one.get("/healthz")[0] == 200 for one in (first, second))
        second.terminate()
        leads(fleet, "first")


def read_well(fleet: LocalCluster) -> None:
    assert condition(fleet, NODE) == ("True", "ReadOK")


def test_the_standby_takes_over_from_a_dead_leader(fleet: LocalCluster) -> None:
    with pair(fleet) as (first, second):
        first.kill()
        eventually(lambda: leads(fleet, "second"))
        eventually(lambda: is_leading(second))
        reads(fleet, "gpu-two")


def test_a_leader_that_ends_in_order_hands_over_at_once(fleet: LocalCluster) -> None:
    # Nobody who waits for this lease to expire leads in time.
    with pair(fleet, LEASE_DURATION="1h") as (first, second):
        assert first.terminate() == 0
        eventually(lambda: leads(fleet, "second"))
        eventually(lambda: is_leading(second))
        reads(fleet, "gpu-three")
    assert holder(fleet) == ""


def test_a_leader_that_was_paused_writes_nothing_when_it_wakes(fleet: LocalCluster) -> None:
    with ApiFaultProxy(fleet) as proxy, pair(fleet, kubeconfig=proxy.kubeconfig) as (first, second):
        eventually(lambda: read_well(fleet))
        # It falls asleep in the middle of a read, whose result it then has.
        runs = len(fleet.exec_log(NODE))
        fleet.set_behaviour(NODE, delay=1)
        fleet.restart_plugin(NODE)

        def reading() -> None:
            assert len(fleet.exec_log(NODE)) > runs

        eventually(reading)
        first.signal(signal.SIGSTOP)
        fleet.clear_behaviour(NODE)
        eventually(lambda: leads(fleet, "second"))
        eventually(lambda: is_leading(second))
        reads(fleet, "gpu-four")
        read_again(fleet, NODE, "asked of the new leader")
        eventually(lambda: is_delivered(fleet, NODE))  # the last write of the new leader
        before = proxy.writes
        now = status(fleet, NODE)
        first.signal(signal.SIGCONT)
        assert first.process.wait(20) == LOST
        assert first.lines()[-1]["msg"] == "lost lease; exiting"
        assert proxy.writes == before
        assert status(fleet, NODE) == now
        leads(fleet, "second")
    assert types(history(fleet, NODE)).count("GPUAdded") == 2 + 4
