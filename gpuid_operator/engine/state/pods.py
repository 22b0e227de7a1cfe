"""The target pods of the cluster, by node."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.target import Target


class PodCache:
    """Target pods as last seen. Its methods do no I/O."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self.targets = tuple(targets)
        # Pods by node, by (number of the target, uid).
        self._pods: dict[str, dict[tuple[int, str], TargetPod]] = {}
        self._node_of: dict[tuple[int, str], str] = {}
        self._changed: dict[str, float] = {}

    def __contains__(self, node: str) -> bool:
        """Whether the node has a target pod, running or not."""
        return node in self._pods

    def put(self, target: int, uid: str, pod: TargetPod | None) -> set[str]:
        """Store the state of a pod, None if it is gone. Returns the nodes that it concerns."""
        key = (target, uid)
        news = set()
        before = self._node_of.get(key)
        if before is not None and (pod is None or pod.node != before):
            del self._pods[before][key], self._node_of[key]
            if not self._pods[before]:
                del self._pods[before]
            news.add(before)
        if pod is not None:
            on_node = self._pods.setdefault(pod.node, {})
            if on_node.get(key) != pod:
                on_node[key] = pod
                self._node_of[key] = pod.node
                news.add(pod.node)
        now = asyncio.get_running_loop().time()
        self._changed.update(dict.fromkeys(news, now))
        return news

    @property
    def selectors(self) -> frozenset[PodSelector]:
        """The pods of all targets."""
        return frozenset(PodSelector(target.namespace, target.selector) for target in self.targets)

    def targets_of(self, selector: PodSelector) -> list[int]:
        """The numbers of the targets that use a selector."""
        return [
            number
            for number, target in enumerate(self.targets)
            if (target.namespace, target.selector) == (selector.namespace, selector.selector)
        ]

    def uids(self, target: int) -> set[str]:
        """The uids of the known pods of a target."""
        return {uid for number, uid in self._node_of if number == target}

    def nodes(self) -> set[str]:
        """The names of all nodes that have a target pod."""
        return set(self._pods)

    def find(self, node: str) -> tuple[Target, TargetPod] | None:
        """Where to read a node: the first target that has a running pod there, and of its pods
        the ready one that started last."""
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
        """A target pod of a node where `find` finds none: its container does not run."""
        return next(iter(self._pods.get(node, {}).values()), None)

    def changed(self, node: str) -> float:
        """When the node's pods last changed, in seconds of the loop's clock; 0.0 for never."""
        return self._changed.get(node, 0.0)

    def forget(self, node: str) -> None:
        """Drop what is remembered of a node that has no pod any more."""
        if node not in self._pods:
            self._changed.pop(node, None)
