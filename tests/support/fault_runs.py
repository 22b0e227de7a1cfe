"""One scenario on the API server in memory, with and without faults: what came of it.

The clock jumps and chance is seeded, so two runs make the same requests in the same order until a
fault sets them apart. So a fault can be put at each single request of the scenario in turn.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from gpuid_operator.kube import errors
from tests.support import clock
from tests.support.deliveries import FakeHTTP
from tests.support.engines import EngineHarness
from tests.support.fake_exec import ExecAnswer, ExecCall
from tests.support.kube import (
    QUARANTINES,
    FakeKube,
    StreamFault,
    forbidden,
    rejected,
    server_error,
    too_many_requests,
    unreachable,
)
from tests.support.objects import (
    inventory_path,
    node_path,
    pod_path,
    policy_path,
    put_node,
    put_pod,
    put_policy,
    put_quarantine,
    quarantine_path,
)
from tests.support.resource_slices import gpus, put_slice
from tests.support.smi_fixtures import machine, serials, swapped, uuids, without

QUIET: Final = 90.0
"""Seconds after each step in which nothing goes wrong; a node has a minute to get a pod."""
REPAIR: Final = 1600.0
"""Seconds in which the operator repairs what a fault did: two resyncs and more."""
LATE: Final = 25.0
"""Seconds by which something is late; the client waits 30."""
OUTAGE: Final = 120.0
"""Seconds of an outage."""
POLICY: Final = "fleet"
DOUBLED: Final = "doubled"
SINKS: Final = ("log", "cmdb")
NODES: Final = ("n1", "n2")
SLICE_NODE: Final = "n3"
"""A node that ResourceSlices alone show."""


_WATCHED_BY_KOPF: Final = ("/pods/", "/gpuinventorypolicies/", "/gpuquarantines/")

Step = Callable[["World"], Awaitable[None]]


class World:
    """A cluster of two GPU nodes and one that only ResourceSlices show, an operator, and what its
    two sinks hold."""

    def __init__(self) -> None:
        self.kube = FakeKube()
        self.http = FakeHTTP()
        self.smi = {node: machine(node) for node in NODES}
        self.operators: list[EngineHarness] = []
        self.starts: list[float] = []
        """When the operator was started, in seconds of the loop's clock."""
        self.events: list[str] = []
        """The events of Kopf's watches so far."""
        self.event_faults: dict[int, Callable[[Callable[[], object]], object]] = {}
        """By the number of the event: gets the function that tells the operator of it."""
        self.exec_faults: dict[int, ExecAnswer] = {}
        """By the number of the exec."""
        self.kube.exec.decide = self._exec
        self.kube.listeners.append(self._change)

    async def start(self) -> None:
        """Start the operator, as `operator/` does: list until it works, then watch."""
        operator = EngineHarness(self.kube, http=self.http, quarantine_taints=True)
        self.operators.append(operator)
        self.starts.append(asyncio.get_running_loop().time())
        while True:
            try:
                await operator.engine.start()
            except errors.KubeError:
                await asyncio.sleep(1.0)
            else:
                break
        operator.engine.watch_begins()

    async def stop(self) -> None:
        """End the operator."""
        await self.operators[-1].engine.stop(within=8.0)

    def picture(self) -> dict[str, Any]:
        """All that must not depend on faults: inventories, labels, and what the sinks hold."""
        inventories = {}
        for node in (*NODES, SLICE_NODE):
            body = self.kube.objects.get(inventory_path(node))
            inventories[node] = body and _inventory(body)
        return {
            "inventories": inventories,
            "node labels": {
                node: self.kube.objects[node_path(node)]["metadata"]["labels"]
                for node in NODES
                if node_path(node) in self.kube.objects
            },
            "taints": {
                node: self.kube.objects[node_path(node)]["spec"].get("taints")
                for node in NODES
                if node_path(node) in self.kube.objects
            },
            "quarantines": {
                path: _quarantine(body)
                for path, body in self.kube.objects.items()
                if path.startswith(QUARANTINES)
            },
            "policy": _policy(self.kube.objects[policy_path(POLICY)]),
            "log": held(record for one in self.operators for record in one.records),
            "cmdb": held(self.http.records),
        }

    def _exec(self, call: ExecCall) -> ExecAnswer:
        number = len(self.kube.exec.calls) - 1
        good = ExecAnswer(stdout=self.smi[call.pod.removeprefix("plugin-")].encode())
        if number in self.exec_faults:
            self.kube.last_fault = asyncio.get_running_loop().time()
        return self.exec_faults.get(number, good)

    def _change(self, kind: str, path: str, body: dict[str, Any]) -> None:
        """Kopf hands an event to the operator, soon or as a fault says."""
        if not self.operators or not any(kind in path for kind in _WATCHED_BY_KOPF):
            return
        operator, deleted = self.operators[-1], kind == "DELETED"
        if "/pods/" in path:
            tell: Callable[[], object] = partial(operator.pod_event, body, deleted=deleted)
        elif path.startswith(QUARANTINES):
            quarantines = operator.engine.quarantines
            tell = partial(quarantines.quarantine_event, body, deleted=deleted)
        else:
            tell = partial(operator.engine.policy_event, body, deleted=deleted)
        fault = self.event_faults.get(len(self.events), soon)
        if len(self.events) in self.event_faults:
            self.kube.last_fault = asyncio.get_running_loop().time()
        self.events.append(f"{kind} {path}")
        fault(tell)

    async def play(self, step: Step) -> None:
        """Let a step happen, and give the operator time: to finish, and to repair what faults of
        this step did."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        await step(self)
        until = loop.time() + QUIET
        while (left := until - loop.time()) > 0:
            await asyncio.sleep(left)
            if self.kube.last_fault >= began:
                until = self.kube.last_fault + REPAIR


def soon(tell: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(0.01, tell)


def late(tell: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(LATE, tell)


def _inventory(body: dict[str, Any]) -> dict[str, Any]:
    status = body["status"]
    kept = ("state", "sequence", "gpus", "gpuCount", "serials", "product", "driverVersion")
    return {
        **{key: status.get(key) for key in kept},
        "policy": status.get("policy"),
        "handled": status.get("lastHandledRequest"),
        "machine": (status.get("node") or {}).get("machine"),
        "container": (status.get("source") or {}).get("containerID"),
        "history": [_timeless(entry) for entry in status["history"]],
        "sinks": [
            (sink["name"], sink["deliveredSequence"], sink["pending"], sink.get("lastError"))
            for sink in status["sinks"]
        ],
        "conditions": {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]},
        "ready": [one["message"] for one in status["conditions"] if one["type"] == "Ready"],
        "labels": body["metadata"]["labels"],
        "spec": body["spec"],
    }


def _policy(body: dict[str, Any]) -> dict[str, Any]:
    status = body.get("status") or {}
    return {
        "matched": status.get("matchedNodes"),
        "conditions": {
            one["type"]: (one["status"], one["reason"]) for one in status.get("conditions", ())
        },
    }


def _quarantine(body: dict[str, Any]) -> dict[str, Any]:
    status = body.get("status") or {}
    return {
        "count": status.get("matchCount"),
        "matches": [(one["node"], one["uuid"]) for one in status.get("matches", ())],
        "conditions": {
            one["type"]: (one["status"], one["reason"]) for one in status.get("conditions", ())
        },
    }


def _timeless(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "time"}


def held(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """What a sink holds, by node and sequence, and under DOUBLED what it holds under two ids, or
    with two contents under one id."""
    contents: dict[str, dict[str, Any]] = {}
    ids: dict[tuple[str, int], str] = {}
    objects: dict[str, str] = {}
    """The name of the node, and which of its inventories it is: a user may delete one."""
    doubled = []
    for record in records:
        uid, number = record["id"].split(".")[:2]
        one = contents.setdefault(record["id"], record)
        known = ids.setdefault((uid, number), record["id"])
        if one != record or known != record["id"]:
            doubled.append((known, record["id"]))
        earlier = sum(name.startswith(f"{record['node']} ") for name in objects.values())
        objects.setdefault(uid, f"{record['node']} {earlier}")
    found: dict[str, Any] = {
        f"{objects[uid]} {number:>02}": _unnamed(contents[name])
        for (uid, number), name in ids.items()
    }
    return {**found, DOUBLED: doubled}


def _unnamed(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("id", "time")}


# The scenario


async def cold_start(world: World) -> None:
    """Two new nodes, and a policy with two sinks."""
    batch = {"maxWait": "50ms"}
    http = {"url": "http://cmdb/in", "insecure": True}
    put_policy(
        world.kube,
        POLICY,
        sinks=[
            {"name": "log", "records": "changes", "stdout": {}, "batch": batch},
            {"name": "cmdb", "records": "changes", "http": http, "batch": batch},
        ],
    )
    for node in NODES:
        put_node(world.kube, node)
        put_pod(world.kube, node)
    await world.start()


async def swap(world: World) -> None:
    """A GPU is swapped, after which the plugin restarts."""
    world.smi["n1"] = swapped(world.smi["n1"], 1, "spare")
    put_pod(world.kube, "n1", number=2)


async def loss(world: World) -> None:
    """A GPU is missing in a read that a user requests: a second read confirms it."""
    world.smi["n2"] = without(world.smi["n2"], 1)

    def request(body: dict[str, Any]) -> None:
        body["metadata"].setdefault("annotations", {})["gpuid.github.com/requestedAt"] = "now"

    world.kube.change(inventory_path("n2"), request)


async def quarantine(world: World) -> None:
    """A part is condemned, and its node gets the taint."""
    part = {"serial": serials(world.smi["n1"])[0]}
    put_quarantine(world.kube, "rma", part, action="Taint")


async def release(world: World) -> None:
    """The part is released."""
    world.kube.remove(quarantine_path("rma"))


async def publication(world: World) -> None:
    """ResourceSlices show a node, and other GPUs of a node than were read."""
    put_node(world.kube, SLICE_NODE, gpus=None)
    put_slice(world.kube, SLICE_NODE, gpus("GPU-3", driver="1.0.0"))
    put_slice(world.kube, "n1", gpus("GPU-other"))


async def next_generation(world: World) -> None:
    """They are published again, in two slices that come one after the other."""
    put_slice(world.kube, "n1", gpus(*uuids(world.smi["n1"])), generation=2)
    first = {"generation": 2, "count": 2}
    put_slice(world.kube, SLICE_NODE, gpus("GPU-3", driver="2.0.0"), **first)
    await asyncio.sleep(3.0)
    put_slice(world.kube, SLICE_NODE, gpus("GPU-4", driver="2.0.0"), **first, name="second")


async def replacement(world: World) -> None:
    """The plugin's pod is replaced, which takes longer than a node may be without one."""
    world.kube.remove(pod_path("plugin-n1"))
    await asyncio.sleep(100.0)
    put_pod(world.kube, "n1", number=3)


async def deletion(world: World) -> None:
    """A user deletes an inventory, which the operator creates again."""
    world.kube.remove(inventory_path("n1"))


async def policy_change(world: World) -> None:
    """The policy takes the labels of the Nodes away."""
    world.kube.change(policy_path(POLICY), lambda body: body["spec"].update(nodeLabels=False))


async def departure(world: World) -> None:
    """A node goes: first its pod, then its Node."""
    world.kube.remove(pod_path("plugin-n2"))
    await asyncio.sleep(3.0)
    world.kube.remove(node_path("n2"))


async def return_(world: World) -> None:
    """Another machine comes under the name of the node that went."""
    put_node(world.kube, "n2", machine="i-other")
    await asyncio.sleep(1.0)
    put_pod(world.kube, "n2", number=3)


async def restart(world: World) -> None:
    """The operator restarts."""
    await world.stop()
    await world.start()


SCENARIO: Final[tuple[Step, ...]] = (
    cold_start,
    swap,
    loss,
    quarantine,
    publication,
    next_generation,
    replacement,
    departure,
    return_,
    restart,
    policy_change,
    release,
    deletion,
)


# Faults


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault at one place of the scenario."""

    place: str
    """The kind of place: a request, an event of a watch, or an exec."""
    number: int
    kind: str
    subject: str
    """The request or the event, for messages."""
    apply: Callable[[World], object]

    def __str__(self) -> str:
        return f"{self.kind} at {self.place} {self.number} ({self.subject})"


@dataclass(frozen=True, slots=True)
class Played:
    """The scenario as it was played, with or without faults."""

    pictures: list[dict[str, Any]]
    """One after each step."""
    world: World

    def differences(self, undisturbed: Played) -> list[str]:
        """The differences from a run without faults, for a person."""
        found: list[str] = []
        for step, one, other in zip(SCENARIO, undisturbed.pictures, self.pictures, strict=True):
            found += [f"after {step.__name__}: {words}" for words in _differences(one, other)]
        return found

    def entries(self) -> int:
        """How many entries the sinks hold at the end."""
        return sum(len(self.pictures[-1][sink]) - 1 for sink in SINKS)

    def doubled(self) -> int:
        """How many of them they hold twice."""
        return sum(len(self.pictures[-1][sink][DOUBLED]) for sink in SINKS)


def _differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from _differences(one.get(key), other.get(key), f"{path}/{key}")
    elif one != other:
        yield f"{path} is {other!r} instead of {one!r}"


def run(injections: Sequence[Injection] = (), *, seed: int) -> Played:
    """Play the scenario with these faults."""
    random.seed(seed)
    world = World()
    for one in injections:
        one.apply(world)
    played = Played([], world)
    clock.run(_play(played))
    return played


async def _play(played: Played) -> None:
    for step in SCENARIO:
        await played.world.play(step)
        played.pictures.append(played.world.picture())
    await played.world.stop()


def injections(undisturbed: Played) -> list[Injection]:
    """Every kind of fault at every place."""
    world = undisturbed.world
    made: list[Injection] = []
    for number, request in enumerate(world.kube.requests):
        subject = f"{request.method} {request.path}"
        made += [
            Injection("request", number, kind, subject, partial(_at_request, number, fault))
            for kind, fault in _request_faults(request.method, request.path)
            # An operator that has just started cannot tell that its first list is old, and takes
            # what it does not list for deleted: a part counts as released.
            if not ("back" in fault and request.time in world.starts)
        ]
    for number in range(world.kube.streamed):
        made += [
            Injection(
                "inventory event", number, fault.name.lower(), "watch", partial(_at, number, fault)
            )
            for fault in StreamFault
        ]
    for number, event in enumerate(world.events):
        made += [
            Injection("pod event", number, kind, event, partial(_at_event, number, fault))
            for kind, fault in (("lost", lambda _: None), ("late", late), ("twice", _twice))
        ]
    for number, call in enumerate(world.kube.exec.calls):
        made += [
            Injection("exec", number, kind, call.pod, partial(_at_exec, number, answer))
            for kind, answer in _EXEC_FAULTS.items()
        ]
    return made


def _request_faults(method: str, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The faults that a request can meet, as arguments of `FakeKube.fail`."""
    is_write = method not in ("GET", "WATCH")
    is_list = method in ("GET", "WATCH") and path.rpartition("/")[2] in COLLECTIONS
    yield "429", {"error": too_many_requests()}
    yield "500", {"error": server_error(500)}
    yield "503", {"error": server_error(503)}
    yield "401", {"error": rejected(errors.Unauthorized, 401, "Unauthorized")}
    yield "403", {"error": forbidden()}
    yield "404 page not found", {"error": rejected(errors.NotFound, 404, "")}
    yield "closed before", {"error": unreachable()}
    yield "slow", {"delay": LATE}
    yield "outage", {"error": unreachable(), "lasts": OUTAGE}
    if method != "WATCH":
        yield "late answer", {"delay": LATE, "after": True}
    if is_list:
        yield "410", {"error": rejected(errors.Gone, 410, "Expired")}
    if is_list and method == "GET":
        for back in (1, 3, 9, 1000):
            yield f"list from {back} versions ago", {"back": back}
    if is_write:
        exists = method == "POST"
        kind = errors.AlreadyExists if exists else errors.Conflict
        conflict = rejected(kind, 409, "AlreadyExists" if exists else "Conflict")
        yield "409", {"error": conflict}
        yield "409 after it was done", {"error": conflict, "after": True}
        yield "404", {"error": rejected(errors.NotFound, 404, "NotFound")}
        yield "500 after it was done", {"error": server_error(500), "after": True}
        yield "429 after it was done", {"error": too_many_requests(), "after": True}
        yield "closed after it was done", {"error": unreachable(), "after": True}
        if not exists:
            yield "overtaken by another client", {"meanwhile": path.removesuffix("/status")}
        for delay in (1.0, 15.0):
            yield f"given up, done after {delay:g} s", {"error": unreachable(), "delay": delay}


COLLECTIONS: Final = (
    *("nodes", "pods", "resourceslices"),
    *("gpuinventories", "gpuinventorypolicies", "gpuquarantines"),
)
_EXEC_FAULTS: Final = {
    "closed": ExecAnswer(refusal=unreachable()),
    "401": ExecAnswer(refusal=rejected(errors.Unauthorized, 401, "Unauthorized")),
    "500": ExecAnswer(refusal=server_error(500)),
    "404": ExecAnswer(refusal=rejected(errors.NotFound, 404, "NotFound")),
    "cut": ExecAnswer(stdout=b"<?xml", cut=True),
    "hang": ExecAnswer(hang=True),
    "exit code": ExecAnswer(exit_code=9),
}


def _at_request(number: int, fault: dict[str, Any], world: World) -> None:
    if "meanwhile" in fault:
        fault = {"meanwhile": partial(world.kube.change, fault["meanwhile"], _annotate)}
    world.kube.fail("", "", skip=number, **fault)


def _annotate(body: dict[str, Any]) -> None:
    """Another client writes something that means nothing to the operator."""
    body["metadata"].setdefault("annotations", {})["example.com/touched"] = "yes"


def _at(number: int, fault: StreamFault, world: World) -> None:
    world.kube.stream_faults[number] = fault


def _at_event(number: int, fault: Callable[[Callable[[], object]], object], world: World) -> None:
    world.event_faults[number] = fault


def _at_exec(number: int, answer: ExecAnswer, world: World) -> None:
    world.exec_faults[number] = answer


def _twice(tell: Callable[[], object]) -> None:
    soon(tell)
    late(tell)
