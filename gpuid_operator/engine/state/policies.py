"""Policies: which of them match a node, and what is in force there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from gpuid_operator.api.inventory import InventorySpec
from gpuid_operator.api.policy import Policy, PolicySpec, PolicyStatus
from gpuid_operator.engine.state.cached_inventory import NO_SPEC
from gpuid_operator.engine.state.resource_version import newer
from gpuid_operator.plan.policy import EffectivePolicy, by_precedence, matching, resolve_policy
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class PolicyCache:
    """All policies, those that cannot be parsed apart from the others. Its methods do no I/O."""

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
        self._unreadable: dict[str, Policy] = {}
        # By name of the policy, with the policy that it was resolved from.
        self._effective: dict[str, tuple[Policy | None, EffectivePolicy]] = {}

    def __iter__(self) -> Iterator[Policy]:
        """The policies that can be parsed, by precedence."""
        return iter(list(self._ordered))

    def __len__(self) -> int:
        return len(self._ordered)

    def get(self, name: str) -> Policy | None:
        return self._policies.get(name)

    @property
    def unreadable(self) -> list[Policy]:
        """The policies that cannot be parsed."""
        return list(self._unreadable.values())

    def is_unreadable(self, name: str) -> bool:
        """Whether the policy of this name cannot be parsed, for example after a rollback of the
        operator."""
        return name in self._unreadable

    def take_all(self, bodies: Sequence[Mapping[str, Any]]) -> bool:
        """Store the policies of a complete list. Returns whether that changes what is in force."""
        return self.put_all(map(read_policy, bodies))

    def take(self, body: Mapping[str, Any], *, deleted: bool) -> bool:
        """Store the policy of a watch event. Returns whether that changes what is in force."""
        if deleted:
            return self.remove(body["metadata"]["name"])
        return self.put(read_policy(body))

    def put_all(self, policies: Iterable[Policy]) -> bool:
        """Replace all policies.

        Keeps a later version of a policy that is known already. Returns whether that changes what
        is in force.
        """
        before = self._specs()
        latest = [self._latest(policy) for policy in policies]
        self._policies = {policy.name: policy for policy in latest if not policy.fault}
        self._unreadable = {policy.name: policy for policy in latest if policy.fault}
        self._ordered = by_precedence(self._policies.values())
        return before != self._specs()

    def put(self, policy: Policy) -> bool:
        """Store one policy. Returns whether that changes what is in force."""
        return self.put_all([*self._others(policy.name), policy])

    def put_status(self, policy: Policy, status: PolicyStatus, *, version: str) -> None:
        """Store the status that was just written to this version of a policy, unless the policy
        changed or was deleted meanwhile."""
        if self._known(policy.name) is policy:
            written = {"status": status, "resource_version": version}
            self.put(policy.model_copy(update=written))

    def remove(self, name: str) -> bool:
        """Drop a policy that was deleted. Returns whether that changes what is in force."""
        return self.put_all(self._others(name))

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

    def _known(self, name: str) -> Policy | None:
        return self._policies.get(name) or self._unreadable.get(name)

    def _others(self, name: str) -> list[Policy]:
        known = (*self._policies.values(), *self._unreadable.values())
        return [policy for policy in known if policy.name != name]

    def _specs(self) -> dict[tuple[str, str], PolicySpec | int]:
        return {
            (policy.uid, policy.name): policy.generation if policy.fault else policy.spec
            for policy in (*self._ordered, *self._unreadable.values())
        }

    def _latest(self, policy: Policy) -> Policy:
        known = self._known(policy.name)
        if known is None or known.uid != policy.uid:
            return policy
        return policy if newer(policy.resource_version, than=known.resource_version) else known


def read_policy(body: Mapping[str, Any]) -> Policy:
    """Read the API object of a policy. Logs an error if its spec cannot be parsed.

    The CRD rejects invalid specs. Such a policy was written under the CRD of another version of the
    operator.
    """
    policy = Policy.from_object(dict(body))
    if policy.fault:
        _log.error(
            "failed to parse GPUInventoryPolicy; skipping its nodes",
            policy=policy.name,
            error=policy.fault,
        )
    return policy
