"""Target pods: which container to read a node in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager

from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.object_versions import ObjectVersions
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.target import Target


class PodCache:
    """All target pods by node. Its methods do no I/O."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        # Pods by node, by (number of the target, uid).
        self._pods: dict[str, dict[tuple[int, str], TargetPod]] = {}
        self._node_of: dict[tuple[int, str], str] = {}
        self._versions: ObjectVersions[tuple[int, str]] = ObjectVersions()
        self._changed: dict[str, float] = {}

    def __contains__(self, node: str) -> bool:
        """Whether the node has a target pod, running or not."""
        return node in self._pods

    def listing(self) -> AbstractContextManager[None]:
        """List pods in this context, so that no page brings back a pod that an event deleted."""
        return self._versions.listing()

    def put(self, target: int, uid: str, pod: TargetPod | None, *, version: str) -> set[str]:
        """Store a pod of a target, None if it does not exist any more, unless a later state than
        the one of `version` is known.

        Returns the nodes whose pods changed by that.
        """
        if not self._versions.put((target, uid), version, exists=pod is not None):
            return set()
        return self._store((target, uid), pod)

    def remove_unlisted(self, target: int, uid: str, version: str) -> set[str]:
        """Remove a pod that is missing in a complete list, unless it has changed since the list
        began. `version` is from `versions` at that time.

        Returns the nodes whose pods changed by that.
        """
        if not self._versions.remove_unlisted((target, uid), version):
            return set()
        return self._store((target, uid), None)

    def _store(self, key: tuple[int, str], pod: TargetPod | None) -> set[str]:
        changed = set()
        before = self._node_of.get(key)
        if before is not None and (pod is None or pod.node != before):
            del self._pods[before][key], self._node_of[key]
            if not self._pods[before]:
                del self._pods[before]
            changed.add(before)
        if pod is not None:
            on_node = self._pods.setdefault(pod.node, {})
            if on_node.get(key) != pod:
                on_node[key] = pod
                self._node_of[key] = pod.node
                changed.add(pod.node)
        now = asyncio.get_running_loop().time()
        self._changed.update(dict.fromkeys(changed, now))
        return changed

    @property
    def selectors(self) -> frozenset[PodSelector]:
        """The selectors of all targets."""
        return frozenset(PodSelector(target.namespace, target.selector) for target in self.targets)

    def targets_of(self, selector: PodSelector) -> list[int]:
        """The numbers of the targets that use a selector."""
        return [
            number
            for number, target in enumerate(self.targets)
            if (target.namespace, target.selector) == (selector.namespace, selector.selector)
        ]

    def versions(self, target: int) -> dict[str, str]:
        """The resourceVersions of the known pods of a target, by uid."""
        return {
            uid: self._versions[number, uid] for number, uid in self._node_of if number == target
        }

    def nodes(self) -> set[str]:
        """The names of all nodes that have a target pod."""
        return set(self._pods)

    def find(self, node: str) -> tuple[Target, TargetPod] | None:
        """The first target with a running pod on a node, and that pod.

        Where the target has several running pods on the node, a ready one is preferred, and among
        these the one that started last.
        """
        running = [
            (number, pod)
            for (number, _), pod in self._pods.get(node, {}).items()
            if pod.container_id
        ]
        if not running:
            return None
        first = min(number for number, _ in running)
        pod = max(
            (pod for number, pod in running if number == first),
            key=lambda pod: (pod.ready, pod.started_at.timestamp() if pod.started_at else 0.0),
        )
        return self.targets[first], pod

    def waiting(self, node: str) -> TargetPod | None:
        """A target pod of a node for which `find` returns None: its container does not run."""
        return next(iter(self._pods.get(node, {}).values()), None)

    def changed(self, node: str) -> float:
        """When the pods of a node last changed, in seconds of the event loop's clock; 0.0 if they
        never did."""
        return self._changed.get(node, 0.0)

    def forget(self, node: str) -> None:
        """Drop what is known of a node, unless it has a pod."""
        if node not in self._pods:
            self._changed.pop(node, None)
