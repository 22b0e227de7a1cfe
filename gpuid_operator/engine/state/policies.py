"""The policies of the cluster, and the effective policy of a set of labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from gpuid_operator.api.inventory import InventorySpec
from gpuid_operator.api.policy import Policy, PolicySpec, PolicyStatus
from gpuid_operator.api.values import first_fault
from gpuid_operator.engine.state.cached_inventory import NO_SPEC
from gpuid_operator.engine.state.resource_version import newer
from gpuid_operator.plan.policy import EffectivePolicy, by_precedence, matching, resolve_policy
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class PolicyCache:
    """Policies as last seen, with those that cannot be read. Its methods do no I/O."""

    def __init__(
        self, *, builtin: PolicySpec, suspended: bool = False, checks_allowed: bool = False
    ) -> None:
        """`builtin` is the environment's policy; `suspended` and `checks_allowed` are SUSPEND and
        POLICY_CHECKS."""
        self._builtin = builtin
        self._suspended = suspended
        self._checks_allowed = checks_allowed
        self._policies: dict[str, Policy] = {}
        self._ordered: list[Policy] = []
        self._unreadable: set[str] = set()
        # By name of the policy, with the policy that it was resolved from.
        self._effective: dict[str, tuple[Policy | None, EffectivePolicy]] = {}

    def __iter__(self) -> Iterator[Policy]:
        """All policies by precedence."""
        return iter(list(self._ordered))

    def __len__(self) -> int:
        return len(self._ordered)

    def get(self, name: str) -> Policy | None:
        return self._policies.get(name)

    def is_unreadable(self, name: str) -> bool:
        """Whether there is a policy of this name that cannot be understood, such as after a
        rollback of the operator."""
        return name in self._unreadable

    def take_all(self, bodies: Sequence[Mapping[str, Any]]) -> bool:
        """Store all policies of a list. Returns whether that changes what is in force."""
        found = {body["metadata"]["name"]: read_policy(body) for body in bodies}
        return self.put_all(
            (policy for policy in found.values() if policy is not None),
            unreadable=(name for name, policy in found.items() if policy is None),
        )

    def take(self, body: Mapping[str, Any], *, deleted: bool) -> bool:
        """Store what an event tells of a policy. Returns whether that changes what is in force."""
        name = body["metadata"]["name"]
        return self.remove(name) if deleted else self.put(name, read_policy(body))

    def put_all(self, policies: Iterable[Policy], *, unreadable: Iterable[str] = ()) -> bool:
        """Store all policies there are, with the names of those that cannot be understood.

        Returns whether that changes what is in force. A later version that an event brought
        already stays.
        """
        before = self._specs()
        self._policies = {policy.name: self._latest(policy) for policy in policies}
        self._ordered = by_precedence(self._policies.values())
        self._unreadable = set(unreadable)
        return before != self._specs()

    def put(self, name: str, policy: Policy | None) -> bool:
        """Store one policy, None if it cannot be understood. Returns False when its spec is known
        already."""
        others = [other for other in self._policies.values() if other.name != name]
        if policy is None:
            return self.put_all(others, unreadable=self._unreadable | {name})
        return self.put_all([*others, policy], unreadable=self._unreadable - {name})

    def put_status(self, policy: Policy, status: PolicyStatus, *, version: str) -> None:
        """Store a status that was just written of this version of a policy, unless an event has
        brought a later one, or its deletion, already."""
        if self._policies.get(policy.name) is policy:
            written = {"status": status, "resource_version": version}
            self.put(policy.name, policy.model_copy(update=written))

    def remove(self, name: str) -> bool:
        """Forget a policy that is gone. Returns whether that changes what is in force."""
        others = [other for other in self._policies.values() if other.name != name]
        return self.put_all(others, unreadable=self._unreadable - {name})

    def matching(self, labels: Mapping[str, str]) -> list[Policy]:
        """The policies of the highest priority that match a node's labels, the effective one
        first."""
        return matching(self._ordered, labels)

    def effective(self, policy: Policy | None, spec: InventorySpec) -> EffectivePolicy:
        """Policy, built-in policy and the inventory's own spec as one. Resolved once per policy
        where the spec is empty, as it is for nearly every node."""
        if spec is not NO_SPEC:
            return self._resolve(policy, spec)
        key = policy.name if policy else ""
        known = self._effective.get(key)
        if known is None or known[0] is not policy:
            known = self._effective[key] = (policy, self._resolve(policy, spec))
        return known[1]

    def _resolve(self, policy: Policy | None, spec: InventorySpec) -> EffectivePolicy:
        return resolve_policy(
            policy,
            builtin=self._builtin,
            spec=spec,
            suspended=self._suspended,
            checks_allowed=self._checks_allowed,
        )

    def _specs(self) -> tuple[dict[tuple[str, str], PolicySpec], set[str]]:
        specs = {(policy.uid, policy.name): policy.spec for policy in self._ordered}
        return specs, self._unreadable

    def _latest(self, policy: Policy) -> Policy:
        known = self._policies.get(policy.name)
        if known is None or known.uid != policy.uid:
            return policy
        return policy if newer(policy.resource_version, than=known.resource_version) else known


def read_policy(body: Mapping[str, Any]) -> Policy | None:
    """A policy from its API object; None, and a line in the log, for one that cannot be understood.

    The API server refuses such specs; one can be there from a later version of the operator, or
    from before the CRD was tightened.
    """
    try:
        return Policy.from_object(dict(body))
    except ValidationError as error:
        words = "a policy cannot be understood; the nodes that it ruled are left alone"
        _log.error(words, policy=body["metadata"]["name"], error=first_fault(error))
        return None
