"""Target pods: which container to read a node in."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.object_versions import ObjectVersions
from gpuid_operator.engine.state.target_memory import TargetMemory
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.target import Target
from gpuid_operator.plan.target_choice import Candidate, choose


class PodCache:
    """All target pods by node. Its methods do no I/O."""

    def __init__(
        self, targets: Sequence[Target], *, grace: timedelta = DEFAULT_TIMINGS.pod_grace
    ) -> None:
        """`grace` is how long a node waits for another pod of the target that it was read in."""
        self.targets = tuple(targets)
        self.memory = TargetMemory(grace=grace)
        self.forbidden: frozenset[str] = frozenset()
        """Namespaces of targets in which the operator may not list pods."""
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

    def forget_namespace(self, namespace: str) -> set[str]:
        """Remove the pods of a namespace that the operator may not list any more.

        Returns the nodes whose pods changed by that.
        """
        changed = set()
        for number, target in enumerate(self.targets):
            if target.namespace == namespace:
                for uid, version in self.versions(number).items():
                    changed |= self.remove_unlisted(number, uid, version)
        return changed

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
        for node in changed:
            self.memory.pods_changed(node, key[0], self._containers(node), now=now)
        return changed

    def _containers(self, node: str) -> set[tuple[int, str]]:
        """The running containers on a node, with the numbers of their targets."""
        pods = self._pods.get(node, {}).items()
        return {(number, pod.container_id) for (number, _), pod in pods}

    @property
    def selectors(self) -> frozenset[PodSelector]:
        """The selectors of all targets."""
        return frozenset(PodSelector(target.namespace, target.selector) for target in self.targets)

    @property
    def watched(self) -> frozenset[PodSelector]:
        """The selectors in the namespaces in which the operator may list pods."""
        return frozenset(one for one in self.selectors if one.namespace not in self.forbidden)

    @property
    def namespaces(self) -> frozenset[str]:
        """The namespaces of all targets."""
        return frozenset(target.namespace for target in self.targets)

    @property
    def first_namespace(self) -> str:
        """The namespace of the first target that the operator may read; that of checks."""
        places = [target.namespace for target in self.targets]
        return next((one for one in places if one not in self.forbidden), places[0])

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

    def on_own_target(self, node: str) -> bool:
        """Whether the node has a pod of a target that is no preset."""
        return any(self.targets[number].preset is None for number, _ in self._pods.get(node, ()))

    def read(self, target: int, body: Mapping[str, Any]) -> TargetPod | None:
        """Read the API object of a pod; None if it is no pod of the target, or is over."""
        wanted = self.targets[target]
        return TargetPod.from_pod(
            body, container=wanted.container, required=wanted.preset is not None
        )

    def find(
        self,
        node: str,
        *,
        read_container: str | None = None,
        last_read: datetime | None = None,
        due: bool = False,
    ) -> tuple[Target, TargetPod] | None:
        """The target to read a node in, and its pod, as `choose` says.

        `read_container` and `last_read` are those of the last good read; `due` is whether a read
        is due: then targets that an earlier process did not use are tried, too. Where a target has
        several running pods on the node, one that may have nvidia-smi is preferred, among these a
        ready one, and among these the one that started last.
        """
        best: dict[int, tuple[_Rank, TargetPod]] = {}
        for (number, _), pod in self._pods.get(node, {}).items():
            if not pod.container_id:
                continue
            rank = self._rank(node, number, pod)
            if number not in best or best[number][0] < rank:
                best[number] = rank, pod
        candidates = [
            Candidate(
                pod=pod,
                number=number,
                ready=pod.ready,
                was_read=pod.container_id == read_container,
                lacks_program=not rank.may_have_program,
                older=bool(last_read and pod.started_at and pod.started_at <= last_read),
            )
            for number, (rank, pod) in sorted(best.items())
        ]
        kept = self.memory.kept(node)
        chosen = choose(
            candidates,
            kept=kept,
            waiting=self.memory.waits(node),
            restarted=not due and not self.memory.was_tried(node),
        )
        if chosen is None:
            return None
        if chosen.was_read:
            self.memory.keep(node, chosen.number)
        return self.targets[chosen.number], chosen.pod

    def _rank(self, node: str, number: int, pod: TargetPod) -> _Rank:
        lacks = self.memory.lacks_program(node, number, pod.container_id)
        started = pod.started_at.timestamp() if pod.started_at else 0.0
        return _Rank(not lacks, pod.ready, started)

    def read_well(self, node: str, target: Target) -> None:
        """This process has read the node in a target."""
        self.memory.keep(node, self.targets.index(target))

    def found_missing(self, node: str, target: Target, pod: TargetPod, why: str) -> bool:
        """A read showed that the container of a target has no nvidia-smi.

        Returns whether the node has a ready container of another target that may have it. Once all
        of them lack it, each is tried again."""
        number = self.targets.index(target)
        if self.memory.lacks_program(node, number, pod.container_id):
            self.memory.retry(node)
        place = f"{pod.namespace}/{pod.name}"
        names = [f"preset {target.preset}"] if target.preset else []
        if place not in why:
            names.append(f"{place}, container {pod.container}")
        named = f"{' in '.join(names)}: {why}" if names else why
        self.memory.note_missing(node, number, pod.container_id, named)
        return any(
            other.ready and not self.memory.lacks_program(node, number, other.container_id)
            for (number, _), other in self._pods.get(node, {}).items()
        )

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
            self.memory.forget(node)


class _Rank(NamedTuple):
    """What one pod of a target is preferred to another for."""

    may_have_program: bool
    ready: bool
    started: float
