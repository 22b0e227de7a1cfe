"""A node on which no target container runs: wait, report, forget, or look at its Node."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from gpuid_operator.plan.cluster_kind import NodeTraits
from gpuid_operator.plan.failure import MAX_MESSAGE
from gpuid_operator.plan.no_target import (
    NodeWithoutTarget,
    NoTargetAction,
    StoppedContainer,
    grace_left,
    grace_wait,
    next_action,
    no_target_error,
    nothing_to_read,
)
from gpuid_operator.plan.presets import expand
from gpuid_operator.plan.target import Target

GRACE, NOW = 60.0, 1000.0
NOTHING, FETCH = NoTargetAction.NOTHING, NoTargetAction.FETCH_NODE
WAIT, REPORT = NoTargetAction.WAIT, NoTargetAction.REPORT
DEPART = NoTargetAction.DEPART

NEVER = NodeWithoutTarget(
    has_inventory=False,
    departed=False,
    suspended=False,
    has_gpus=True,
    fetched=NOW - 300,
    pods_changed=None,
)
"""A GPU node that never had a target pod."""
LOST = replace(NEVER, has_inventory=True, pods_changed=NOW - 10, fetched=NOW - 10)
"""A node that lost its pod 10 s ago."""
OVER = replace(LOST, pods_changed=NOW - 90, fetched=NOW - 30)
"""A node whose grace period ended 30 s ago."""


@pytest.mark.parametrize(
    ("node", "action"),
    [
        (replace(LOST, departed=True, fetched=None), NOTHING),
        (replace(LOST, departed=True), WAIT),
        (replace(LOST, fetched=None, gone=True), DEPART),
        (replace(LOST, fetched=None, gone=True, departed=True), NOTHING),
        (replace(LOST, fetched=None, gone=True, has_inventory=False), NOTHING),
        (replace(LOST, fetched=None, gone=True, suspended=True), DEPART),
        (replace(NEVER, fetched=None), FETCH),
        (replace(NEVER, fetched=0.0), REPORT),
        (replace(LOST, fetched=None), FETCH),
        (replace(LOST, fetched=NOW - 11), FETCH),
        (LOST, WAIT),
        (replace(OVER, fetched=NOW - 31), FETCH),
        (OVER, REPORT),
        (NEVER, REPORT),
        (replace(NEVER, has_gpus=False), NOTHING),
        (replace(NEVER, has_gpus=False, has_inventory=True), REPORT),
        (replace(LOST, has_gpus=False, has_inventory=False), NOTHING),
        (replace(OVER, suspended=True), NOTHING),
        (replace(LOST, suspended=True), NOTHING),
        (replace(LOST, suspended=True, fetched=None), FETCH),
    ],
)
def test_the_table(node: NodeWithoutTarget, action: NoTargetAction) -> None:
    assert next_action(node, grace=GRACE, now=NOW) is action


def test_the_grace_period_begins_with_the_last_change_of_the_pods() -> None:
    assert grace_left(LOST, grace=GRACE, now=NOW) == 50
    assert grace_left(OVER, grace=GRACE, now=NOW) == -30
    assert grace_left(NEVER, grace=GRACE, now=NOW) == 0


TARGETS = (Target(namespace="a", selector="app=x"), Target(namespace="b", selector="app=y"))


def test_the_wait_for_the_end_of_the_grace_period_is_never_zero_before_it() -> None:
    """Less than half a microsecond would round to 0, and the node be looked at in a busy loop."""
    for left in (50.0, 3e-7, 1e-9):
        wait = grace_wait(replace(LOST, pods_changed=left), grace=0.0, now=0.0)
        assert 0 < left <= wait.total_seconds() < left + 2e-6
    assert grace_wait(NEVER, grace=GRACE, now=NOW) == timedelta(0)


def test_the_report_names_every_place_where_a_pod_was_looked_for() -> None:
    error = no_target_error(TARGETS)
    assert error.reason == "NoTargetPod"
    assert error.message == (
        "no target pod on this node (namespace a, selector app=x; namespace b, selector app=y);"
        " the operator runs nvidia-smi in the device plugin's pods: check its settings NAMESPACE,"
        " LABEL_SELECTOR and TARGETS"
    )


def test_presets_are_named_with_their_namespaces() -> None:
    error = no_target_error(
        (*expand("static-manifest"), *TARGETS, *expand("gke")), forbidden={"b", "a"}
    )
    assert error.message == (
        "no target pod on this node (preset static-manifest in kube-system, nvidia-device-plugin;"
        " namespace a, selector app=x; namespace b, selector app=y; preset gke in kube-system);"
        " the operator may not list pods in a, b; install the GPU Operator or a device plugin, run"
        " reader pods (chart value reader.enabled), or add a target of your own"
    )


def test_a_pod_of_a_preset_is_to_be_looked_at() -> None:
    stopped = StoppedContainer(namespace="kube-system", pod="gke-n1", container="plugin")
    error = no_target_error(expand("gke"), stopped=stopped)
    assert error.message == (
        "container plugin of pod kube-system/gke-n1 is not running; see why with `kubectl describe"
        " pod -n kube-system gke-n1`"
    )


AKS = {"kubernetes.azure.com/cluster": "mc"}


@pytest.mark.parametrize(
    ("name", "labels", "image", "said"),
    [
        ("gk3-pool-1", {}, "Container-Optimized OS", "GKE Autopilot permits neither"),
        ("n", {"eks.amazonaws.com/compute-type": "auto"}, "Bottlerocket", "EKS Auto Mode runs"),
        ("n", {}, "Bottlerocket OS 1.40.0 (aws-k8s-1.34-nvidia)", "Bottlerocket runs"),
        ("aks-gpu-1", AKS, "Ubuntu", "AKS node pools with a managed"),
        ("gke-pool-1", {"eks.amazonaws.com/compute-type": "x"}, "Ubuntu", "install the GPU Oper"),
    ],
)
def test_the_report_says_what_to_do_on_this_kind_of_cluster(
    name: str, labels: dict[str, str], image: str, said: str
) -> None:
    node = NodeTraits(name=name, labels=labels, os_image=image)
    places = {target.namespace for target in expand("auto")}
    error = no_target_error(expand("auto"), node=node, forbidden=places)
    assert said in error.message
    assert len(error.message) < MAX_MESSAGE, "the advice at its end is not cut off"


STOPPED = StoppedContainer(namespace="a", pod="plugin-n1", container="plugin")
LOOK = "see why with `kubectl describe pod -n a plugin-n1`"


@pytest.mark.parametrize(
    ("stopped", "message"),
    [
        (STOPPED, f"is not running; {LOOK}"),
        (replace(STOPPED, running=True), f"is not ready; {LOOK}"),
        (
            replace(STOPPED, no_image=True),
            "is not running: failed to pull its image;"
            f" {LOOK}, and correct the image or its pull secret",
        ),
    ],
)
def test_the_report_names_a_pod_in_which_no_command_runs(
    stopped: StoppedContainer, message: str
) -> None:
    error = no_target_error(TARGETS, stopped=stopped)
    assert error.message == f"container plugin of pod a/plugin-n1 {message}"


def test_without_anything_to_read_the_advice_says_what_to_look_at() -> None:
    assert nothing_to_read(TARGETS[:1]) == (
        "looked for pods of namespace a, selector app=x. If the cluster has GPUs, check the"
        " operator's settings NAMESPACE, LABEL_SELECTOR and TARGETS. If it has none, try simulated"
        " GPUs (deployment/simulated)"
    )
    assert nothing_to_read(expand("gke"), forbidden={"kube-system"}) == (
        "looked for pods of preset gke in kube-system; the operator may not list pods in"
        " kube-system. If the cluster has GPUs, install the GPU Operator or a device plugin, run"
        " reader pods (chart value reader.enabled), or add a target of your own. If it has none,"
        " try simulated GPUs (deployment/simulated)"
    )
