"""What is known of the cluster: target pods, nodes, policies; and so what is in force where."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpuid_operator.api.inventory import InventorySpec, NodeInfo
from gpuid_operator.api.policy import Policy, PolicySpec, PolicyStatus
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.inventory_cache import NO_SPEC, CachedInventory, newer
from gpuid_operator.kube.nodes import NodeFacts
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.policy import EffectivePolicy, by_precedence, matching, resolve_policy
from gpuid_operator.plan.target import Target


@dataclass(frozen=True, slots=True)
class KnownNode:
    """A node's facts and when they were fetched, in seconds of the loop's clock."""

    facts: NodeFacts
    fetched: float


class ClusterState:
    """The cluster as last seen. Its methods do no I/O."""

    def __init__(
        self,
        *,
        targets: Sequence[Target],
        builtin: PolicySpec,
        suspended: bool = False,
        checks_allowed: bool = False,
    ) -> None:
        self.targets = tuple(targets)
        self.nodes: dict[str, KnownNode] = {}
        self._builtin = builtin
        self._suspended = suspended
        self._checks_allowed = checks_allowed
        self._policies: dict[str, Policy] = {}
        self._ranked: list[Policy] = []
        self._invalid: set[str] = set()
        # By name of the policy, with the policy that it was found for.
        self._effective: dict[str, tuple[Policy | None, EffectivePolicy]] = {}
        # Pods by node, by (number of the target, uid).
        self._pods: dict[str, dict[tuple[int, str], TargetPod]] = {}
        self._node_of: dict[tuple[int, str], str] = {}
        self._changed: dict[str, float] = {}

    # Pods

    def put_pod(self, target: int, uid: str, pod: TargetPod | None) -> set[str]:
        """Take over the state of a pod, None if it is gone; the nodes for which that is news."""
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
    def sources(self) -> frozenset[PodSelector]:
        """The pods of all targets."""
        return frozenset(PodSelector(target.namespace, target.selector) for target in self.targets)

    def targets_of(self, source: PodSelector) -> list[int]:
        """The numbers of the targets whose pods a source has."""
        return [
            number
            for number, target in enumerate(self.targets)
            if (target.namespace, target.selector) == (source.namespace, source.selector)
        ]

    def pods_of(self, target: int) -> set[str]:
        """The uids of the pods that are known of a target."""
        return {uid for number, uid in self._node_of if number == target}

    def target(self, node: str) -> tuple[Target, TargetPod] | None:
        """Where to read a node: of the first target that has a running pod there, the ready one
        that started last."""
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

    def waiting_pod(self, node: str) -> TargetPod | None:
        """A pod of a target that is there but whose container does not run."""
        return next(iter(self._pods.get(node, {}).values()), None)

    def changed(self, node: str) -> float:
        """When the node's pods last changed, in seconds of the loop's clock."""
        return self._changed.get(node, 0.0)

    def nodes_with_pods(self) -> set[str]:
        return set(self._pods)

    def is_gpu_node(self, name: str) -> bool:
        """Whether the node has a target pod or GPUs to give."""
        known = self.nodes.get(name)
        return name in self._pods or (known is not None and bool(known.facts.gpu_capacity))

    # Nodes

    def put_node(self, facts: NodeFacts) -> None:
        self.nodes[facts.name] = KnownNode(facts, asyncio.get_running_loop().time())

    def forget_node(self, name: str) -> None:
        self.nodes.pop(name, None)
        if name not in self._pods:
            self._changed.pop(name, None)

    # Policies

    def put_policies(self, policies: Iterable[Policy], *, invalid: Iterable[str] = ()) -> bool:
        """Take over all policies there are, with the names of those that cannot be understood;
        whether that changes what is in force. Where a later version of one is known from an event
        already, that stays."""
        before = self._said()
        self._policies = {policy.name: self._latest(policy) for policy in policies}
        self._ranked = by_precedence(self._policies.values())
        self._invalid = set(invalid)
        return before != self._said()

    def put_policy(self, name: str, policy: Policy | None) -> bool:
        """Take over one policy, None if it cannot be understood; False when its spec is known
        already."""
        others = [other for other in self._policies.values() if other.name != name]
        if policy is None:
            return self.put_policies(others, invalid=self._invalid | {name})
        return self.put_policies([*others, policy], invalid=self._invalid - {name})

    def _said(self) -> tuple[dict[tuple[str, str], PolicySpec], set[str]]:
        return {(policy.uid, policy.name): policy.spec for policy in self._ranked}, self._invalid

    def is_policy_unreadable(self, cached: CachedInventory | None) -> bool:
        """Whether the inventory is under a policy that cannot be understood, such as after a
        rollback of the operator. Then nobody knows what is in force, and it is left alone."""
        return cached is not None and cached.policy in self._invalid

    def put_policy_status(self, policy: Policy, status: PolicyStatus, *, version: str) -> None:
        """Take over a status that was just written of this version of a policy, unless an event
        has brought a later one, or its end, already."""
        if self._policies.get(policy.name) is policy:
            written = {"status": status, "resource_version": version}
            self.put_policy(policy.name, policy.model_copy(update=written))

    def _latest(self, policy: Policy) -> Policy:
        known = self._policies.get(policy.name)
        if known is None or known.uid != policy.uid:
            return policy
        return policy if newer(policy.resource_version, than=known.resource_version) else known

    def remove_policy(self, name: str) -> bool:
        others = [other for other in self._policies.values() if other.name != name]
        return self.put_policies(others, invalid=self._invalid - {name})

    @property
    def policies(self) -> list[Policy]:
        """In the order of their say."""
        return list(self._ranked)

    def matching(self, name: str) -> list[Policy]:
        """The policies that claim a node, the ruling one first."""
        node = self.nodes.get(name)
        return matching(self._ranked, node.facts.labels) if node else []

    def effective_policy(self, name: str, cached: CachedInventory | None) -> EffectivePolicy:
        """What is in force for a node. One that is gone stays under the policy it had last."""
        if name in self.nodes:
            policy = next(iter(self.matching(name)), None)
        else:
            policy = self._policies.get(cached.policy) if cached and cached.policy else None
        spec = cached.spec if cached else NO_SPEC
        if spec is not NO_SPEC:
            return self._in_force(policy, spec)
        key = policy.name if policy else ""
        known = self._effective.get(key)
        if known is None or known[0] is not policy:
            known = self._effective[key] = (policy, self._in_force(policy, spec))
        return known[1]

    def _in_force(self, policy: Policy | None, spec: InventorySpec) -> EffectivePolicy:
        return resolve_policy(
            policy,
            builtin=self._builtin,
            spec=spec,
            suspended=self._suspended,
            checks_allowed=self._checks_allowed,
        )


def node_info(facts: NodeFacts) -> NodeInfo:
    """The facts of a Node as the status has them."""
    provider = facts.provider_id
    return NodeInfo(
        name=facts.name,
        uid=facts.uid,
        provider_id=provider,
        machine=(provider or "").rstrip("/").rpartition("/")[2] or "na",
        boot_id=facts.boot_id,
    )
