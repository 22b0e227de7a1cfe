"""The pods that checks run in, by node, for each container that a check names."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.object_versions import ObjectVersions
from gpuid_operator.kube.pods import TargetPod

_Place = tuple[PodSelector, str | None]
"""A selector and the container that a check names."""


class CheckPods:
    """The pods that the checks select. Its methods do no I/O."""

    def __init__(self) -> None:
        self._containers: dict[PodSelector, set[str | None]] = {}
        self._pods: dict[tuple[_Place, str], dict[str, TargetPod]] = {}
        self._node_of: dict[tuple[PodSelector, str], str] = {}
        self._versions: ObjectVersions[tuple[PodSelector, str]] = ObjectVersions()

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
        for key in [key for key in self._node_of if key[0] not in containers]:
            del self._node_of[key]
            self._versions.forget(key)
        return added

    def listing(self) -> AbstractContextManager[None]:
        """List pods in this context, so that no page brings back a pod that an event deleted."""
        return self._versions.listing()

    def put(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> set[str]:
        """Store the state of a pod, unless a later one is known. Returns the nodes for which
        something changed."""
        if source not in self._containers:
            return set()
        uid, version = body["metadata"]["uid"], body["metadata"]["resourceVersion"]
        pods_by_container = {} if deleted else self._read(source, body)
        if not self._versions.put((source, uid), version, exists=bool(pods_by_container)):
            return set()
        if not pods_by_container:
            return self._remove(source, uid)
        changed: set[str] = set()
        for container, pod in pods_by_container.items():
            pods = self._pods.setdefault(((source, container), pod.node), {})
            if pods.get(uid) != pod:
                pods[uid] = pod
                self._node_of[source, uid] = pod.node
                changed.add(pod.node)
        return changed

    def remove_unlisted(self, source: PodSelector, uid: str, version: str) -> set[str]:
        """Remove a pod that is missing in a complete list, unless it has changed since the list
        began. `version` is from `versions` at that time. Returns the node that it was on."""
        if not self._versions.remove_unlisted((source, uid), version):
            return set()
        return self._remove(source, uid)

    def _read(self, source: PodSelector, body: dict[str, Any]) -> dict[str | None, TargetPod]:
        """The pod by the container that a check names; empty if it is over."""
        found = {
            container: TargetPod.from_pod(body, container=container)
            for container in self._containers[source]
        }
        return {container: pod for container, pod in found.items() if pod is not None}

    def _remove(self, source: PodSelector, uid: str) -> set[str]:
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

    def versions(self, source: PodSelector) -> dict[str, str]:
        """The resourceVersions of the known pods of a selector, by uid."""
        return {uid: self._versions[known, uid] for known, uid in self._node_of if known == source}

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
