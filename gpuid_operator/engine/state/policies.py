"""Policies: which of them match a node, and what is in force there."""

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
    """All policies, and the names of those that cannot be parsed. Its methods do no I/O."""

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
        """Whether the policy of this name cannot be parsed, for example after a rollback of the
        operator."""
        return name in self._unreadable

    def take_all(self, bodies: Sequence[Mapping[str, Any]]) -> bool:
        """Store the policies of a complete list. Returns whether that changes what is in force."""
        found = {body["metadata"]["name"]: read_policy(body) for body in bodies}
        return self.put_all(
            (policy for policy in found.values() if policy is not None),
            unreadable=(name for name, policy in found.items() if policy is None),
        )

    def take(self, body: Mapping[str, Any], *, deleted: bool) -> bool:
        """Store the policy of a watch event. Returns whether that changes what is in force."""
        name = body["metadata"]["name"]
        return self.remove(name) if deleted else self.put(name, read_policy(body))

    def put_all(self, policies: Iterable[Policy], *, unreadable: Iterable[str] = ()) -> bool:
        """Replace all policies, and the names of those that cannot be parsed.

        Keeps a later version of a policy that is known already. Returns whether that changes what
        is in force.
        """
        before = self._specs()
        self._policies = {policy.name: self._latest(policy) for policy in policies}
        self._ordered = by_precedence(self._policies.values())
        self._unreadable = set(unreadable)
        return before != self._specs()

    def put(self, name: str, policy: Policy | None) -> bool:
        """Store one policy, None if it cannot be parsed. Returns whether that changes what is in
        force."""
        others = [other for other in self._policies.values() if other.name != name]
        if policy is None:
            return self.put_all(others, unreadable=self._unreadable | {name})
        return self.put_all([*others, policy], unreadable=self._unreadable - {name})

    def put_status(self, policy: Policy, status: PolicyStatus, *, version: str) -> None:
        """Store the status that was just written to this version of a policy, unless the policy
        changed or was deleted meanwhile."""
        if self._policies.get(policy.name) is policy:
            written = {"status": status, "resource_version": version}
            self.put(policy.name, policy.model_copy(update=written))

    def remove(self, name: str) -> bool:
        """Drop a policy that was deleted. Returns whether that changes what is in force."""
        others = [other for other in self._policies.values() if other.name != name]
        return self.put_all(others, unreadable=self._unreadable - {name})

    def matching(self, labels: Mapping[str, str]) -> list[Policy]:
        """The policies of the highest priority that match these node labels, the effective one
        first."""
        return matching(self._ordered, labels)

    def effective(self, policy: Policy | None, spec: InventorySpec) -> EffectivePolicy:
        """Resolve a policy, the built-in policy and an inventory's own spec to what is in force.

        Nearly all inventories have no spec of their own; they share the result of their policy.
        """
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
    """Parse the API object of a policy. Logs an error and returns None where that fails.

    The CRD rejects invalid specs. Such a policy was written under the CRD of another version of the
    operator.
    """
    try:
        return Policy.from_object(dict(body))
    except ValidationError as error:
        _log.error(
            "failed to parse GPUInventoryPolicy; skipping its nodes",
            policy=body["metadata"]["name"],
            error=first_fault(error),
        )
        return None
