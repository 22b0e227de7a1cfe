"""Faults between the operator's process and real API servers, one request after the other.

Each run is a cold start, a quarantine that taints the node, a swap, the end of the quarantine and a
departure, with two sinks: HTTP and the log. In each run one request meets a fault, of the kind
whose turn it is; then two requests of a run do. In further runs half of the connections lead to a
second API server that lags behind, lists are served from its old cache, and watches skip events.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import Request
from tests.faults.campaign import LIMIT, SEED, WHOLE, Figures
from tests.support.api_fault_proxy import (
    ApiFaultProxy,
    Fault,
    answers,
    closes,
    cuts,
    delays,
    skips,
)
from tests.support.fault_runs import COLLECTIONS, DOUBLED, SINKS, held
from tests.support.lagging_server import LaggingApiServer
from tests.support.operators import (
    INVENTORIES,
    POLICIES,
    Operator,
    eventually,
    inventory,
    node_labels,
    types,
)
from tests.support.quarantines import QUARANTINES, TAINT, condemn, lift, taints
from tests.support.receivers import WebService
from tests.support.smi_fixtures import machine, swapped, uuids

CHANGING, STAYING = "gpu-changing", "gpu-staying"
FIRST = machine(CHANGING)
PERIODS = {"resync": 4.0, "catch_up": 1.0, "pod_grace": 1.0}
WITHIN = 120.0
"""Seconds for a step: a request that gets no answer takes 30."""
ROUNDS = 3
"""How often each request meets a fault in the whole campaign, of another kind each time."""
PART = 2
"""Runs with single faults in the part that `make test` runs."""
PAIRS = 40 if WHOLE else 1
CONDEMNED = "rma"
"""The quarantine of the GPU that stays."""
ADDED = ["GPUAdded", "GPUAdded", "Sighted"]
MARKED = [*ADDED, "GPUQuarantined"]
SWAPPED = [*MARKED, "GPURemoved", "GPUAdded", "Sighted"]
RELEASED = [*SWAPPED, "GPUReleased"]
LEFT = [kind for kind in RELEASED if kind != "Sighted"]
HISTORIES = [
    *(ADDED, MARKED, SWAPPED, RELEASED),
    [*LEFT, "GPURemoved", "GPURemoved", "NodeDeparted"],
]
"""The types of the history of the node that changes, after each step."""
LAST = len(HISTORIES) - 1
RECORDS = [sum(kind != "Sighted" for kind in history) for history in HISTORIES]
"""How many records each sink has of it: none of a sighting."""

LAGGING = 12 if WHOLE else 1
"""Runs with the lagging API server."""
LAG = 2.0
"""Seconds by which it lags."""

Choice = Callable[[int, str], Fault | None]


def kinds(request: str) -> list[Fault]:
    """The faults that a request can meet."""
    found = [
        answers("429 Too Many Requests", "Retry-After: 1"),
        closes(before=True),
        answers("500 Internal Server Error"),
        cuts(),
        answers("401 Unauthorized"),
        closes(before=False),
        answers("503 Service Unavailable"),
        answers("404 Not Found"),
        delays(2.0),
    ]
    if not request.startswith("GET"):
        found += [
            answers("409 Conflict"),
            answers("409 Conflict", before=False),
            answers("500 Internal Server Error", before=False),
            answers("504 Gateway Timeout", before=False),
        ]
    if "watch=true" in request:
        found += [answers("410 Gone"), skips(1), skips()]
    return found


class Rig:
    """The cluster, the operator behind its proxy, and its sinks."""

    def __init__(self, cluster: LocalCluster, proxy: ApiFaultProxy, service: WebService) -> None:
        self.cluster = cluster
        self.proxy = proxy
        self.service = service
        self.operator = Operator(
            cluster,
            kubeconfig=proxy.kubeconfig,
            periods=PERIODS,
            CLUSTER_NAME="faults",
            QUARANTINE_TAINTS="true",
        )
        self.expected: list[dict[str, Any]] = []
        """The picture after each step, undisturbed."""
        self.requests = 0
        """How many requests an undisturbed run makes."""

    def learn(self) -> None:
        """Run undisturbed."""
        self._run(lambda *_: None, self._is_through)
        self.requests = len(self.proxy.requests)

    def run(self, choose: Choice) -> list[dict[str, Any]]:
        """Run with the faults that `choose` chooses; the picture after each step."""
        return self._run(choose, self._is_as_expected)

    def _run(
        self, choose: Choice, settled: Callable[[int], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        cluster = self.cluster
        cluster.add_node(CHANGING, xml=FIRST, provider_id="aws:///us-east-1a/i-changing")
        self.proxy.requests.clear()
        self.proxy.fault_at = choose
        self.operator.start()
        try:
            pictures = [eventually(lambda: settled(0), within=WITHIN)]
            condemn(cluster, CONDEMNED, {"uuid": uuids(FIRST)[0]}, action="Taint")
            pictures.append(eventually(lambda: settled(1), within=WITHIN))
            cluster.write_smi(CHANGING, swapped(FIRST, 1, "gpu-spare"))
            cluster.restart_plugin(CHANGING)
            pictures.append(eventually(lambda: settled(2), within=WITHIN))
            lift(cluster, CONDEMNED)
            pictures.append(eventually(lambda: settled(3), within=WITHIN))
            cluster.delete_node(CHANGING)
            pictures.append(eventually(lambda: settled(LAST), within=WITHIN))
            assert self.operator.terminate() == 0
        except BaseException:
            self.operator.kill()
            raise
        finally:
            self.proxy.fault_at = lambda *_: None
            for node in (CHANGING, STAYING):
                cluster.client.send(Request("DELETE", f"{INVENTORIES}/{node}", tolerate=(404,)))
            cluster.client.send(Request("DELETE", f"{QUARANTINES}/{CONDEMNED}", tolerate=(404,)))
            if CHANGING in cluster.node_names:
                cluster.delete_node(CHANGING)
        return pictures

    def _is_through(self, step: int) -> dict[str, Any]:
        picture = self.picture()
        changing, staying = picture[CHANGING], picture[STAYING]
        assert types(changing["history"]) == HISTORIES[step]
        for one in (changing, staying):
            assert [sink[2] for sink in one["sinks"]] == [0, 0]
        for sink in SINKS:
            assert entries({sink: picture[sink]}) == 2 + RECORDS[step]
        assert picture["policy"] == (1 if step == LAST else 2)
        labels = picture["node labels"]
        assert len(labels) == (1 if step == LAST else 2)
        for node, one in labels.items():
            assert sorted(one.values()) == sorted(picture[node]["serials"])
        condemned = step in (1, 2)
        tainted = [taint for found in picture["taints"].values() for taint in found]
        assert tainted == ([(TAINT, CONDEMNED, "NoSchedule")] if condemned else [])
        assert ("matchCount" in picture["quarantine"]) is condemned
        self.expected = [*self.expected[:step], picture]
        return picture

    def _is_as_expected(self, step: int) -> dict[str, Any]:
        picture = self.picture()
        assert picture == self.expected[step], step
        return picture

    def picture(self) -> dict[str, Any]:
        """All that must not depend on faults."""
        bodies = {node: inventory(self.cluster, node) for node in (CHANGING, STAYING)}
        uids = [body["metadata"]["uid"] for body in bodies.values()]
        sinks = {"log": self.operator.records(), "cmdb": self.service.records}
        policy = self.cluster.client.get(f"{POLICIES}/fleet")
        nodes = [node for node in (CHANGING, STAYING) if node in self.cluster.node_names]
        return {
            **{node: _facts(body) for node, body in bodies.items()},
            **{
                name: _sourceless(held(one for one in records if one["id"].split(".")[0] in uids))
                for name, records in sinks.items()
            },
            "node labels": {node: node_labels(self.cluster, node) for node in nodes},
            "taints": {node: ours(taints(self.cluster, node)) for node in nodes},
            "quarantine": self._quarantine(),
            "policy": policy.get("status", {}).get("matchedNodes"),
        }

    def _quarantine(self) -> dict[str, Any]:
        found = self.cluster.client.get(QUARANTINES)["items"]
        status = found[0].get("status", {}) if found else {}
        nodes = [match["node"] for match in status.get("matches", ())]
        conditions = {one["type"]: one["reason"] for one in status.get("conditions", ())}
        return status and {"matchCount": status["matchCount"], "nodes": nodes, **conditions}


def ours(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    return [taint for taint in found if taint[0] == TAINT]


def _facts(body: dict[str, Any]) -> dict[str, Any]:
    found = body["status"]
    kept = ("state", "sequence", "gpus", "gpuCount", "serials", "product", "policy")
    varying = ("time", "source")
    return {
        **{key: found.get(key) for key in kept},
        "history": [
            {key: value for key, value in entry.items() if key not in varying}
            for entry in found["history"]
        ],
        "sinks": sorted(
            (sink["name"], sink["deliveredSequence"], sink["pending"], sink.get("lastError"))
            for sink in found["sinks"]
        ),
        "conditions": {one["type"]: (one["status"], one["reason"]) for one in found["conditions"]},
        "labels": body["metadata"]["labels"],
        "spec": body["spec"],
    }


def _sourceless(records: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from pod to pod and from line to line of the log."""
    varying = ("source", "time", "level", "msg", "service", "logger")
    return {
        key: value
        if key == DOUBLED
        else {name: one for name, one in value.items() if name not in varying}
        for key, value in records.items()
    }


@pytest.fixture(scope="module")
def rig(local_cluster: Callable[..., LocalCluster]) -> Iterator[Rig]:
    cluster = local_cluster(nodes=0)
    cluster.add_node(STAYING, xml=machine(STAYING))
    with WebService() as service, ApiFaultProxy(cluster) as proxy:
        log = {"name": "log", "stdout": {}, "records": "changes", "batch": {"maxWait": "0s"}}
        policy = {
            "apiVersion": "gpuid.github.com/v1alpha1",
            "kind": "GPUInventoryPolicy",
            "metadata": {"name": "fleet"},
            "spec": {"sinks": [log, service.sink("cmdb", records="changes")]},
        }
        cluster.client.send(Request("POST", POLICIES, policy))
        rig = Rig(cluster, proxy, service)
        rig.learn()
        yield rig
    rig.operator.check_output()
    cluster.down()


@dataclass
class Chosen:
    """Faults for the requests with these numbers, of the kinds whose turn it is."""

    turn: int
    numbers: set[int]
    injected: list[str] = field(default_factory=list)

    def __call__(self, number: int, request: str) -> Fault | None:
        if number not in self.numbers:
            return None
        possible = kinds(request)
        fault = possible[(number + self.turn) % len(possible)]
        self.injected.append(f"{fault} at {number}, {request}")
        return fault

    def __str__(self) -> str:
        return " and ".join(self.injected)


def survive(rig: Rig, rounds: Sequence[Chosen], row: Figures) -> list[str]:
    """Run once for each round. Returns what came out differently."""
    failures = []
    for chosen in rounds:
        found = count_run(rig, chosen, row)
        failures += [f"{chosen}: {words}" for words in found]
        row.injected += len(chosen.injected)
        row.survived += 0 if found else len(chosen.injected)
    return failures


def count_run(rig: Rig, choose: Choice, row: Figures) -> list[str]:
    """Run once, and count what came to the sinks; what came out differently."""
    failures = []
    row.expected += entries(rig.expected[-1])
    try:
        picture = rig.run(choose)[-1]
    except AssertionError as error:
        failures = [str(error)[:2000]]
        picture = {}
    row.delivered += min(entries(picture), entries(rig.expected[-1]))
    row.doubled += sum(len(picture[sink][DOUBLED]) for sink in picture if sink in SINKS)
    return failures


def entries(picture: dict[str, Any]) -> int:
    return sum(len(picture[sink]) - 1 for sink in picture if sink in SINKS)


@pytest.mark.timeout(LIMIT)
def test_a_fault_at_any_request_to_a_real_server_leaves_no_trace(
    rig: Rig, figures: Callable[[str], Figures]
) -> None:
    every = [Chosen(turn, {number}) for turn in range(ROUNDS) for number in range(rig.requests)]
    draw = random.Random(SEED)
    part = [Chosen(draw.randrange(99), {draw.randrange(rig.requests)}) for _ in range(PART)]
    assert survive(rig, every if WHOLE else part, figures("API server, each request")) == []


@pytest.mark.timeout(LIMIT)
def test_two_faults_at_a_real_server_leave_no_trace(
    rig: Rig, figures: Callable[[str], Figures]
) -> None:
    draw = random.Random(SEED)
    pairs = [
        Chosen(draw.randrange(99), set(draw.sample(range(rig.requests), 2))) for _ in range(PAIRS)
    ]
    assert survive(rig, pairs, figures("API server, pairs")) == []


@pytest.mark.timeout(LIMIT)
def test_a_lagging_server_old_lists_and_skipped_events_leave_no_trace(
    rig: Rig, figures: Callable[[str], Figures]
) -> None:
    row = figures("API server that lags")
    draw = random.Random(SEED)
    injected = 0

    def old(line: str) -> str:
        """Let a list be served from the watch cache."""
        nonlocal injected
        method, target, protocol = line.split(" ")
        collection = target.partition("?")[0].rpartition("/")[2]
        if method != "GET" or "watch=true" in target or collection not in COLLECTIONS:
            return line
        injected += 1
        return f"GET {target}{'&' if '?' in target else '?'}resourceVersion=0 {protocol}"

    def choose(_: int, request: str) -> Fault | None:
        nonlocal injected
        if "watch=true" not in request or draw.random() < 0.5:
            return None
        injected += 1
        return skips(draw.randrange(1, 3))

    failures = []
    with LaggingApiServer(rig.cluster, delay=LAG) as lagging:
        rig.proxy.servers.append(lagging.server)
        rig.proxy.edits = old
        try:
            for _ in range(LAGGING):
                injected = 0
                failures += count_run(rig, choose, row)
                row.injected += injected
                row.survived += 0 if failures else injected
        finally:
            rig.proxy.servers.remove(lagging.server)
            rig.proxy.edits = lambda line: line
    assert failures == []
