"""The pods that checks run in, by node, for each container that a check names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.pods import TargetPod

_Place = tuple[PodSelector, str | None]
"""A selector and the container that a check names."""


class CheckPods:
    """The pods that the checks select. Its methods do no I/O."""

    def __init__(self) -> None:
        self._containers: dict[PodSelector, set[str | None]] = {}
        self._pods: dict[tuple[_Place, str], dict[str, TargetPod]] = {}
        self._node_of: dict[tuple[PodSelector, str], str] = {}

    @property
    def sources(self) -> frozenset[PodSelector]:
        """The selectors of the checks."""
        return frozenset(self._containers)

    def follow(self, jobs: Iterable[CheckJob]) -> bool:
        """Keep the pods of these checks and of no others.

        Returns whether a check has pods that were not kept so far: the caller must list them.
        """
        containers: dict[PodSelector, set[str | None]] = {}
        for job in jobs:
            containers.setdefault(job.source, set()).add(job.container)
        added = any(
            not names <= self._containers.get(source, set()) for source, names in containers.items()
        )
        self._containers = containers
        self._pods = {
            (place, node): pods
            for (place, node), pods in self._pods.items()
            if place[1] in containers.get(place[0], set())
        }
        self._node_of = {key: node for key, node in self._node_of.items() if key[0] in containers}
        return added

    def put(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> set[str]:
        """Store the state of a pod. Returns the nodes for which something changed."""
        uid = body["metadata"]["uid"]
        changed: set[str] = set()
        if deleted:
            return self.remove(source, uid)
        for container in self._containers.get(source, ()):
            pod = TargetPod.from_pod(body, container=container)
            if pod is None:
                return self.remove(source, uid)
            pods = self._pods.setdefault(((source, container), pod.node), {})
            if pods.get(uid) != pod:
                pods[uid] = pod
                self._node_of[source, uid] = pod.node
                changed.add(pod.node)
        return changed

    def remove(self, source: PodSelector, uid: str) -> set[str]:
        """Forget a pod. Returns the node that it was on, if the pod was known."""
        node = self._node_of.pop((source, uid), None)
        if node is None:
            return set()
        for container in self._containers.get(source, ()):
            key = (source, container), node
            pods = self._pods.get(key, {})
            pods.pop(uid, None)
            if not pods:
                self._pods.pop(key, None)
        return {node}

    def uids(self, source: PodSelector) -> set[str]:
        """The uids of the known pods of a selector."""
        return {uid for known, uid in self._node_of if known == source}

    def nodes(self) -> set[str]:
        """The names of all nodes that have a pod."""
        return set(self._node_of.values())

    def find(self, job: CheckJob, node: str) -> TargetPod | None:
        """The pod in which a check runs: the ready one that started last."""
        pods = self._pods.get(((job.source, job.container), node), {})
        ready = [pod for pod in pods.values() if pod.ready]
        return max(
            ready,
            key=lambda pod: pod.started_at.timestamp() if pod.started_at else 0.0,
            default=None,
        )
