"""The pods that checks run in, by node, for each container that a check names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.pods import TargetPod

_Place = tuple[PodSelector, str | None]


class CheckPods:
    """The pods of all checks' sources. Its methods do no I/O."""

    def __init__(self) -> None:
        self._places: dict[PodSelector, set[str | None]] = {}
        self._pods: dict[tuple[_Place, str], dict[str, TargetPod]] = {}
        self._node_of: dict[tuple[PodSelector, str], str] = {}

    @property
    def sources(self) -> frozenset[PodSelector]:
        return frozenset(self._places)

    def want(self, jobs: Iterable[CheckJob]) -> bool:
        """Follow the pods of these checks and no others. True when some were not followed yet:
        then their pods have to be listed."""
        places: dict[PodSelector, set[str | None]] = {}
        for job in jobs:
            places.setdefault(job.source, set()).add(job.container)
        news = any(not wanted <= self._places.get(key, set()) for key, wanted in places.items())
        self._places = places
        self._pods = {
            key: pods
            for key, pods in self._pods.items()
            if key[0][1] in places.get(key[0][0], set())
        }
        self._node_of = {key: node for key, node in self._node_of.items() if key[0] in places}
        return news

    def put(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> set[str]:
        """Take over the state of a pod; the nodes for which that is news."""
        uid = body["metadata"]["uid"]
        news = self.remove(source, uid) if deleted else set()
        if deleted:
            return news
        for container in self._places.get(source, ()):
            pod = TargetPod.from_pod(body, container=container)
            if pod is None:
                return news | self.remove(source, uid)
            pods = self._pods.setdefault(((source, container), pod.node), {})
            if pods.get(uid) != pod:
                pods[uid] = pod
                self._node_of[source, uid] = pod.node
                news.add(pod.node)
        return news

    def remove(self, source: PodSelector, uid: str) -> set[str]:
        """Forget a pod; the node that it was on."""
        node = self._node_of.pop((source, uid), None)
        if node is None:
            return set()
        for container in self._places.get(source, ()):
            key = (source, container), node
            pods = self._pods.get(key, {})
            pods.pop(uid, None)
            if not pods:
                self._pods.pop(key, None)
        return {node}

    def uids(self, source: PodSelector) -> set[str]:
        return {uid for known, uid in self._node_of if known == source}

    def nodes(self) -> set[str]:
        return set(self._node_of.values())

    def pod(self, job: CheckJob, node: str) -> TargetPod | None:
        """The ready pod to run a check in: of several, the one that started last."""
        pods = self._pods.get(((job.source, job.container), node), {})
        ready = [pod for pod in pods.values() if pod.ready]
        return max(
            ready,
            key=lambda pod: pod.started_at.timestamp() if pod.started_at else 0.0,
            default=None,
        )
