"""Which pods are targets, and which container of theirs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from gpuid_operator.kube.nodes import NodeFacts
from gpuid_operator.kube.pods import TargetPod, trimmed_pod

RUNNING = {"running": {"startedAt": "2026-06-07T10:30:45Z"}}


def container(name: str, *, ready: bool = True, state: Any = RUNNING) -> dict[str, Any]:
    return {"name": name, "ready": ready, "containerID": f"containerd://{name}", "state": state}


def pod(**changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = {
        "metadata": {"namespace": "gpu-operator", "name": "plugin-1", "uid": "u"},
        "spec": {"nodeName": "n", "containers": [{"name": "side"}, {"name": "plugin"}]},
        "status": {
            "phase": "Running",
            "containerStatuses": [container("side"), container("plugin")],
        },
    }
    for part, content in changes.items():
        body[part] = {**body[part], **content}
    return body


def test_a_trimmed_pod_is_the_same_target_without_the_rest() -> None:
    body = pod(
        metadata={
            "resourceVersion": "7",
            "labels": {"app": "plugin"},
            "annotations": {"kubectl.kubernetes.io/default-container": "plugin", "other": "x"},
            "ownerReferences": [{"kind": "DaemonSet", "controller": True}],
            "managedFields": [{"manager": "kubelet"}],
        },
        spec={"volumes": [{"name": "x"}], "tolerations": [{"operator": "Exists"}]},
        status={"podIP": "10.0.0.1", "conditions": [{"type": "Ready"}]},
    )
    body["spec"]["containers"][1] |= {
        "resources": {"claims": [{"name": "gpus"}]},
        "env": [{"name": "A", "value": "b"}],
    }
    trimmed = trimmed_pod(body)
    target = TargetPod.from_pod(trimmed, container=None)
    assert target == TargetPod.from_pod(body, container=None)
    assert target is not None and target.claims and target.controlled and target.ready
    assert trimmed["metadata"]["labels"] == {"app": "plugin"}
    assert trimmed["metadata"]["resourceVersion"] == "7"
    left = str(trimmed)
    rest = ("managedFields", "volumes", "tolerations", "podIP", "conditions", "env", "other")
    assert not any(name in left for name in rest)


@pytest.mark.parametrize("reason", ["ErrImagePull", "ContainerCreating"])
def test_a_trimmed_pod_says_what_its_container_waits_for(reason: str) -> None:
    waiting = container("plugin", ready=False, state={"waiting": {"reason": reason}})
    body = pod(status={"containerStatuses": [waiting]})
    target = TargetPod.from_pod(trimmed_pod(body), container="plugin")
    assert target == TargetPod.from_pod(body, container="plugin")
    assert target is not None and target.no_image == (reason == "ErrImagePull")


@pytest.mark.parametrize(
    "body",
    [
        pod(metadata={"deletionTimestamp": "2026-06-07T10:30:45Z"}),
        pod(status={"phase": "Succeeded"}),
        pod(spec={"nodeName": None}),
        {"metadata": {"namespace": "a", "name": "b", "uid": "c"}},
    ],
    ids=["deleted", "over", "unassigned", "bare"],
)
def test_a_trimmed_pod_is_no_target_where_the_pod_is_none(body: dict[str, Any]) -> None:
    assert TargetPod.from_pod(trimmed_pod(body), container=None) is None


def test_the_configured_container_of_a_running_pod() -> None:
    assert TargetPod.from_pod(pod(), container="plugin") == TargetPod(
        namespace="gpu-operator",
        name="plugin-1",
        uid="u",
        node="n",
        container="plugin",
        container_id="containerd://plugin",
        ready=True,
        started_at=datetime(2026, 6, 7, 10, 30, 45, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("configured", "annotation", "chosen"),
    [
        ("plugin", "side", "plugin"),
        ("absent", "plugin", "plugin"),
        (None, "plugin", "plugin"),
        ("absent", "absent-too", "side"),
        (None, None, "side"),
    ],
)
def test_the_container_falls_back_to_the_annotation_then_to_the_first(
    configured: str | None, annotation: str | None, chosen: str
) -> None:
    annotations = {"kubectl.kubernetes.io/default-container": annotation} if annotation else None
    target = TargetPod.from_pod(pod(metadata={"annotations": annotations}), container=configured)
    assert target is not None
    assert (target.container, target.container_id) == (chosen, f"containerd://{chosen}")


@pytest.mark.parametrize(
    "body",
    [
        pod(spec={"nodeName": None}),
        pod(spec={"containers": []}),
        pod(status={"phase": "Succeeded"}),
        pod(status={"phase": "Failed"}),
        pod(metadata={"deletionTimestamp": "2026-06-07T10:30:45Z"}),
    ],
)
def test_pods_that_nothing_can_run_in_are_no_targets(body: dict[str, Any]) -> None:
    assert TargetPod.from_pod(body, container="plugin") is None


@pytest.mark.parametrize(
    ("statuses", "container_id"),
    [
        (None, ""),
        ([container("side")], ""),
        ([container("plugin", state={"waiting": {"reason": "CrashLoopBackOff"}})], ""),
        ([container("plugin", state={"terminated": {"exitCode": 1}})], ""),
        ([container("plugin", ready=False)], "containerd://plugin"),
    ],
)
def test_a_target_is_ready_only_while_its_container_is(
    statuses: list[dict[str, Any]] | None, container_id: str
) -> None:
    target = TargetPod.from_pod(pod(status={"containerStatuses": statuses}), container="plugin")
    assert target is not None
    assert (target.ready, target.container_id) == (False, container_id)


def test_a_pod_knows_whether_something_would_replace_it() -> None:
    owned = pod(metadata={"ownerReferences": [{"kind": "DaemonSet", "controller": True}]})
    referred = pod(metadata={"ownerReferences": [{"kind": "ConfigMap"}]})
    targets = [TargetPod.from_pod(body, container=None) for body in (owned, referred)]
    assert [target.controlled for target in targets if target] == [True, False]


def test_a_node_is_reduced_to_its_facts() -> None:
    node = {
        "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"}},
        "spec": {"providerID": "aws:///x/i-1"},
        "status": {"nodeInfo": {"bootID": "b"}, "capacity": {"nvidia.com/gpu": "8", "cpu": "1"}},
    }
    assert NodeFacts.from_node(node) == NodeFacts(
        name="n",
        uid="u",
        provider_id="aws:///x/i-1",
        boot_id="b",
        resource_version="7",
        labels={"a": "b"},
        gpu_capacity=8,
    )


def test_a_bare_node_has_absent_facts() -> None:
    facts = NodeFacts.from_node({"metadata": {"name": "n", "uid": "u", "resourceVersion": "7"}})
    assert (facts.provider_id, facts.boot_id, facts.labels, facts.gpu_capacity) == (
        None,
        None,
        {},
        None,
    )


@pytest.mark.parametrize(
    ("reason", "no_image"),
    [
        ("ErrImagePull", True),
        ("ImagePullBackOff", True),
        ("InvalidImageName", True),
        ("ErrImageNeverPull", True),
        ("ContainerCreating", False),
        ("CrashLoopBackOff", False),
    ],
)
def test_a_container_that_waits_for_its_image_is_seen(reason: str, no_image: bool) -> None:
    waiting = container("plugin", ready=False, state={"waiting": {"reason": reason}})
    target = TargetPod.from_pod(pod(status={"containerStatuses": [waiting]}), container="plugin")
    assert target is not None
    assert (target.no_image, target.container_id) == (no_image, "")
