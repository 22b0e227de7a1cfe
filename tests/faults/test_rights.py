"""Rights, kinds and a namespace that are taken from the running operator, and given back."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gpuid_operator.localcluster import LocalCluster
from gpuid_operator.localcluster.client import MERGE, Request
from gpuid_operator.localcluster.nodes import TARGET_NAMESPACE, device_plugin
from tests.cluster.test_operator_access import (
    CRDS,
    EVENTS,
    EXEC,
    FOOTPRINT,
    PODS,
    apply,
    role,
    says,
    service_account,
)
from tests.faults.campaign import SEED, WHOLE, Figures
from tests.support.crds import delete_crds
from tests.support.operators import (
    INVENTORIES,
    Operator,
    eventually,
    history,
    is_not_ready,
    read_well,
    status,
    types,
)
from tests.support.smi_fixtures import facts, machine, swapped

NODE = "gpu-rights"
Row = Callable[[str], Figures]
Rule = dict[str, Any]

ROLES: dict[str | None, list[Rule]] = {
    None: FOOTPRINT,
    "default": [EVENTS],
    TARGET_NAMESPACE: [PODS, EXEC],
}
"""The operator's rules by namespace, without those on leases, whose loss ends the operator, and on
Secrets of sinks, of which there are none."""


@pytest.fixture(scope="module")
def cluster(local_cluster: Callable[..., LocalCluster]) -> LocalCluster:
    made = local_cluster(nodes=0)
    made.add_node(NODE, xml=machine(NODE))
    return made


@pytest.fixture(scope="module")
def kubeconfig(cluster: LocalCluster) -> Path:
    """That of a service account with exactly the operator's roles."""
    for namespace, rules in ROLES.items():
        apply(cluster, *role(namespace, *rules))
    return service_account(cluster)


def swap(cluster: LocalCluster, name: str) -> Callable[[], None]:
    """Put another GPU into the node. Returns the check that this is read and delivered."""
    xml = swapped(cluster.smi_file(NODE).read_text(), 0, name)
    cluster.write_smi(NODE, xml)
    container = cluster.restart_plugin(NODE)

    def is_read() -> None:
        found = status(cluster, NODE)
        assert (found["source"]["containerID"], found["gpus"]) == (container, facts(xml))
        # Afterwards: the status of before the swap says that all is delivered, too.
        read_well(cluster, NODE)

    return is_read


def verbs() -> list[tuple[str | None, int, str]]:
    """Each verb of each rule: namespace of the role, number of the rule, verb."""
    return [
        (namespace, at, verb)
        for namespace, rules in ROLES.items()
        for at, rule in enumerate(rules)
        if rule["resources"] != ["namespaces"]  # read at the start alone
        for verb in rule["verbs"]
    ]


@contextmanager
def without(cluster: LocalCluster, namespace: str | None, at: int, verb: str) -> Iterator[None]:
    rules = copy.deepcopy(ROLES[namespace])
    rules[at]["verbs"].remove(verb)
    apply(cluster, *role(namespace, *(rule for rule in rules if rule["verbs"])))
    try:
        yield
    finally:
        apply(cluster, *role(namespace, *ROLES[namespace]))


def test_each_right_is_taken_and_given_back(
    cluster: LocalCluster, kubeconfig: Path, figures: Row
) -> None:
    row = figures("rights taken")
    taken = verbs()
    if not WHOLE:
        taken = random.Random(SEED).sample(taken, 4)
    with Operator(cluster, kubeconfig=kubeconfig, ready=False) as operator:
        eventually(lambda: read_well(cluster, NODE))
        for number, (namespace, at, verb) in enumerate(taken):
            row.injected += 1
            lines = len(operator.lines())
            with without(cluster, namespace, at, verb):
                is_read = swap(cluster, f"gpu-{number}")

                def has_ended(lines: int = lines, done: Callable[[], None] = is_read) -> None:
                    """The swap is read without the right, or the log says what is missing."""
                    said = json.dumps(operator.lines()[lines:])
                    if "forbidden" not in said:
                        done()

                eventually(has_ended)
            eventually(is_read, within=60)
            row.survived += 1
        row.expected = 2 * (1 + len(taken))
        row.delivered = len({one["id"] for one in operator.records()})
        assert row.delivered == row.expected
        assert operator.process.poll() is None


OLDER = [
    ("lastChangeTime",),
    ("gpus", "items", "health"),
    ("history", "items", "message"),
    ("sinks", "items", "pending"),
]
"""Fields of the status that an older version of the CRD does not have."""


@contextmanager
def older_crd(cluster: LocalCluster, *paths: tuple[str, ...]) -> Iterator[None]:
    name = f"{CRDS}/gpuinventories.gpuid.github.com"
    original = cluster.client.get(name)["spec"]
    older = copy.deepcopy(original)
    schema = older["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    for path in paths:
        fields = schema
        for step in path[:-1]:
            fields = fields["items"] if step == "items" else fields["properties"][step]
        del fields["properties"][path[-1]]

    def put(spec: dict[str, Any]) -> None:
        cluster.client.send(Request("PATCH", name, {"spec": spec}, content_type=MERGE))

    def lacks_a_field() -> None:
        # A CRD is in force a moment after it was written.
        probe = {"status": {"lastChangeTime": "2026-06-07T10:30:45Z"}}
        path = f"{INVENTORIES}/{NODE}/status?dryRun=All&fieldValidation=Strict"
        request = Request("PATCH", path, probe, content_type=MERGE, tolerate=(400, 422))
        assert cluster.client.send(request) is None

    put(older)
    try:
        eventually(lacks_a_field)
        yield
    finally:
        put(original)


def test_an_older_crd(cluster: LocalCluster, figures: Row) -> None:
    """The log says what to do about the fields that an older CRD lacks; then nothing is missing."""
    row = figures("older CRD")
    row.injected += len(OLDER)
    with Operator(cluster) as operator:
        eventually(lambda: read_well(cluster, NODE))
        with older_crd(cluster, *OLDER):
            is_read = swap(cluster, "gpu-under-an-older-crd")
            eventually(lambda: says(operator, "lastChangeTime", "install the CRDs of this version"))
            assert operator.get("/healthz")[0] == 200
        eventually(is_read, within=90)
        assert types(history(cluster, NODE))[-2:] == ["GPURemoved", "GPUAdded"]
    row.survived += len(OLDER)


QUARANTINE_KIND = ("gpuquarantines.gpuid.github.com",)
NEEDED_KINDS = ("gpuinventories.gpuid.github.com", "gpuinventorypolicies.gpuid.github.com")


def is_gone(operator: Operator, names: tuple[str, ...], lines: int) -> None:
    """The operator says that it lacks these kinds."""
    if names == QUARANTINE_KIND:
        said = [line["msg"] for line in operator.lines()[lines:]]
        assert any("GPUQuarantine is not served" in words for words in said)
    else:
        code, words = operator.get("/readyz")
        assert code == 503 and "waiting for the CRDs" in words


@pytest.mark.parametrize("names", [QUARANTINE_KIND, NEEDED_KINDS] if WHOLE else [QUARANTINE_KIND])
def test_kinds_go_and_come_back(
    cluster: LocalCluster, figures: Row, names: tuple[str, ...]
) -> None:
    """Their CRDs, with all objects."""
    row = figures(f"kinds away, {len(names)}")
    row.injected += len(names)
    with Operator(cluster, periods={"quarantine_look": 1.0}) as operator:
        eventually(lambda: read_well(cluster, NODE))
        manifests = [cluster.client.get(f"{CRDS}/{name}") for name in names]
        lines = len(operator.lines())
        delete_crds(cluster, *names)
        eventually(lambda: is_gone(operator, names, lines), within=90)
        for manifest in manifests:
            manifest["metadata"] = {"name": manifest["metadata"]["name"]}
            manifest.pop("status")
            cluster.client.send(Request("POST", CRDS, manifest))
        operator.wait_ready()
        eventually(swap(cluster, f"gpu-after-{len(names)}"), within=90)
        assert operator.process.poll() is None
    row.survived += len(names)


def test_the_namespace_of_the_target_is_deleted_and_made_again(
    cluster: LocalCluster, kubeconfig: Path, figures: Row
) -> None:
    """The operator's role goes with the namespace, and comes back after the pods."""
    row = figures("namespace deleted")
    row.injected += 1
    with Operator(cluster, kubeconfig=kubeconfig, periods={"pod_grace": 1.0}) as operator:
        eventually(lambda: read_well(cluster, NODE))
        gpus, entries = status(cluster, NODE)["gpus"], history(cluster, NODE)
        cluster.kubectl("delete", "namespace", TARGET_NAMESPACE, "--timeout=60s")
        eventually(lambda: is_not_ready(cluster, NODE, "NoTargetPod"), within=60)
        assert (status(cluster, NODE)["gpus"], history(cluster, NODE)) == (gpus, entries)
        cluster.kubectl("create", "namespace", TARGET_NAMESPACE)
        apply(cluster, device_plugin())
        cluster.wait_plugin(NODE)
        is_read = swap(cluster, "gpu-in-the-new-namespace")
        apply(cluster, *role(TARGET_NAMESPACE, *ROLES[TARGET_NAMESPACE]))
        eventually(is_read, within=90)
        new = history(cluster, NODE)[len(entries) :]
        assert types(new) == ["GPURemoved", "GPUAdded"]
        assert operator.process.poll() is None
    row.survived += 1
