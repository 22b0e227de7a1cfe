"""The watches of pods, and what follows from their events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from gpuid_operator.engine.checks.policy_checks import PolicyChecks
from gpuid_operator.engine.core.options import Timings
from gpuid_operator.engine.core.pod_selector import PodSelector, merge, selects
from gpuid_operator.engine.reconcile.target_pods import TargetPods
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient


class PodEvents:
    """Hands the events of a watch to the targets and checks that it serves."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        checks: PolicyChecks,
        enqueue: Callable[[Iterable[str]], None],
        timings: Timings,
    ) -> None:
        """`enqueue` takes the nodes whose pods changed."""
        self.targets = TargetPods(
            client,
            state=state,
            namespaces_changed=self._namespaces_changed,
            enqueue=enqueue,
            timings=timings,
        )
        self._pods = state.pods
        self._checks = checks
        self._enqueue = enqueue
        self._members: dict[PodSelector, tuple[PodSelector, ...]] = {}

    async def check_rights(self) -> None:
        """Look which pods can be watched: a watch without permission ends the others, too.

        Raises KubeError if there are none.
        """
        await self.targets.probe()

    def sources(self) -> tuple[PodSelector, ...]:
        """The watches for the current targets and checks."""
        self._members = merge(self._pods.watched | self._checks.sources)
        return tuple(sorted(self._members))

    def take(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None:
        """A pod of a watch was added, modified or deleted."""
        members = self._members.get(source, (source,))
        labels = body["metadata"].get("labels") or {}
        for member in members:
            # A pod that lost the label of one member may have that of another.
            there = not deleted and selects(member, labels, members=members)
            self._take(member, body, deleted=not there)

    def _take(self, selector: PodSelector, body: dict[str, Any], *, deleted: bool) -> None:
        uid, version = body["metadata"]["uid"], body["metadata"]["resourceVersion"]
        for number in self._pods.targets_of(selector):
            pod = None if deleted else self._pods.read(number, body)
            self._enqueue(self._pods.put(number, uid, pod, version=version))
        self._enqueue(self._checks.pod_event(selector, body, deleted=deleted))

    def _namespaces_changed(self) -> None:
        """Checks run in the first namespace that can be read, and other pods are watched."""
        self._checks.policies_changed()
        self._checks.sources_changed.set()
