"""What happens to a node on which no target container runs, or which was never read and whose
container is not ready.

The rows are tried from top to bottom:

the node                                                | action
--------------------------------------------------------|-------------------------------------------
departed, and no Node of its name was seen since        | nothing
its Node is gone                                        | mark an inventory of it as departed
its facts are older than the last change of its pods,   | fetch the Node and decide again
or, after the grace period, than the end of that        |
has no inventory, and is not known to have GPUs         | nothing
suspended                                               | nothing
lost its pod less than the grace period ago             | wait for the rest of it: pods are replaced
any other                                               | report NoTargetPod

A pod often goes before its Node does, so the Node is fetched at both ends of the grace period.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from gpuid_operator.plan.cluster_kind import NodeTraits, advice_for
from gpuid_operator.plan.failure import FailureReason, ReadError
from gpuid_operator.plan.target import Target

_ADVICE: Final = (
    "the operator runs nvidia-smi in the device plugin's pods: check its settings NAMESPACE,"
    " LABEL_SELECTOR and TARGETS"
)
_SETTINGS_ADVICE: Final = "check the operator's settings NAMESPACE, LABEL_SELECTOR and TARGETS"
_IMAGE_ADVICE: Final = "correct the image or its pull secret"
_PRESETS_ADVICE: Final = (
    "install the GPU Operator or a device plugin, run reader pods (chart value reader.enabled), or"
    " add a target of your own"
)


class NoTargetAction(StrEnum):
    """What to do about the node."""

    NOTHING = "nothing"
    FETCH_NODE = "fetch the Node"
    DEPART = "mark the node as departed"
    WAIT = "wait"
    REPORT = "report NoTargetPod"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWithoutTarget:
    """What decides about the node. Times are seconds of one clock."""

    has_inventory: bool
    departed: bool
    """Whether the inventory says that the node is gone."""
    suspended: bool
    has_gpus: bool
    """Whether the Node, as far as it was fetched, or its ResourceSlices show GPUs."""
    pods_changed: float | None
    """When its target pods last changed; None if it never had one: then there is no grace."""
    fetched: float | None
    """When the Node was fetched; None if it was not."""
    gone: bool = False
    """Whether the API server has just answered that there is no such Node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppedContainer:
    """The container of a target pod in which no command can run."""

    namespace: str
    pod: str
    container: str
    running: bool = False
    """Whether it runs and is not ready."""
    no_image: bool = False
    """Whether it waits for an image that the kubelet failed to get."""

    @property
    def found(self) -> str:
        """What the operator sees of it."""
        lacks = "ready" if self.running else "running"
        found = f"container {self.container} of pod {self.namespace}/{self.pod} is not {lacks}"
        return f"{found}: failed to pull its image" if self.no_image else found

    @property
    def advice(self) -> str:
        """What to do about it."""
        look = f"see why with `kubectl describe pod -n {self.namespace} {self.pod}`"
        return f"{look}, and {_IMAGE_ADVICE}" if self.no_image else look


def next_action(node: NodeWithoutTarget, *, grace: float, now: float) -> NoTargetAction:
    """What to do now, as the table above says. `grace` in seconds."""
    changed = 0.0 if node.pods_changed is None else node.pods_changed
    waiting = grace_left(node, grace=grace, now=now) > 0
    needed_since = changed if waiting or node.pods_changed is None else changed + grace
    if node.departed and node.fetched is None:
        return NoTargetAction.NOTHING
    if node.gone:
        return NoTargetAction.DEPART if node.has_inventory else NoTargetAction.NOTHING
    if node.fetched is None or node.fetched < needed_since:
        return NoTargetAction.FETCH_NODE
    if node.suspended or not (node.has_inventory or node.has_gpus):
        return NoTargetAction.NOTHING
    return NoTargetAction.WAIT if waiting else NoTargetAction.REPORT


def grace_left(node: NodeWithoutTarget, *, grace: float, now: float) -> float:
    """Seconds until the grace period of the node ends; 0 or less once it is over."""
    return 0.0 if node.pods_changed is None else node.pods_changed + grace - now


def grace_wait(node: NodeWithoutTarget, *, grace: float, now: float) -> timedelta:
    """How long to wait for the end of the grace period: rounded up, since a wait that ends before
    it would be followed by waits of zero."""
    return timedelta(microseconds=math.ceil(grace_left(node, grace=grace, now=now) * 1e6))


def no_target_error(
    targets: tuple[Target, ...],
    *,
    stopped: StoppedContainer | None = None,
    node: NodeTraits | None = None,
    forbidden: Collection[str] = (),
) -> ReadError:
    """The failure of a node without a target container to read it in.

    `stopped` is the container of its target pod, if there is one. `forbidden` are the namespaces in
    which the operator may not list pods.
    """
    if stopped is not None:
        return _error(stopped.found, stopped.advice)
    found = f"no target pod on this node ({'; '.join(_places(targets))})"
    if forbidden:
        found += f"; {_no_right(forbidden)}"
    general = _PRESETS_ADVICE if _uses_presets(targets) else _ADVICE
    return _error(found, (advice_for(node) if node else None) or general)


def nothing_to_read(targets: tuple[Target, ...], *, forbidden: Collection[str] = ()) -> str:
    """What to do in a cluster in which the operator finds neither target pods nor GPU nodes."""
    places = f"looked for pods of {'; '.join(_places(targets))}"
    if forbidden:
        places += f"; {_no_right(forbidden)}"
    advice = _PRESETS_ADVICE if _uses_presets(targets) else _SETTINGS_ADVICE
    return (
        f"{places}. If the cluster has GPUs, {advice}. If it has none, try simulated GPUs"
        " (deployment/simulated)"
    )


def _uses_presets(targets: tuple[Target, ...]) -> bool:
    return any(target.preset for target in targets)


def _no_right(forbidden: Collection[str]) -> str:
    return f"the operator may not list pods in {', '.join(sorted(forbidden))}"


def _error(found: str, advice: str) -> ReadError:
    return ReadError(FailureReason.NO_TARGET_POD, f"{found}; {advice}")


def _places(targets: tuple[Target, ...]) -> Iterator[str]:
    """Where a pod was looked for: each preset with its namespaces, and each target of the user."""
    seen = set()
    for target in targets:
        if target.preset is None:
            yield f"namespace {target.namespace}, selector {target.selector}"
        elif target.preset not in seen:
            seen.add(target.preset)
            places = dict.fromkeys(
                other.namespace for other in targets if other.preset == target.preset
            )
            yield f"preset {target.preset} in {', '.join(places)}"
