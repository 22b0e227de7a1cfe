"""The statuses of policies: how many nodes each applies to, and which of them conflict."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.policy import Policy, PolicyStatus
from gpuid_operator.engine.core.turns import in_turns
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.rounds import WriteRounds
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.policies import apply_policy_status
from gpuid_operator.plan.policy import policy_status
from gpuid_operator.plan.policy_claims import PolicyClaims, count_claims
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

QUIET: Final = 2.0
"""Seconds between two rounds. While a cluster starts, the counts change with every node."""


class PolicyStatuses:
    """Writes the status of each policy when it changed."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        clock: Callable[[], datetime],
        checks_allowed: bool = False,
    ) -> None:
        """`checks_allowed` is POLICY_CHECKS."""
        self._client = client
        self._state = state
        self._clock = clock
        self._checks_allowed = checks_allowed
        self._rounds = WriteRounds(quiet=QUIET)

    def touch(self) -> None:
        """Ask for a round: a policy, or the policy of a node, changed."""
        self._rounds.touch()

    async def run(self) -> None:
        """Write until cancelled. Each round writes what changed since the last one."""
        await self._rounds.run(self._round)

    async def _round(self) -> None:
        policies = self._policies()
        claims = await self._claims()
        if policies != self._policies():
            self.touch()  # the nodes were counted under several states of the policies
            return
        self._rounds.keep_only([policy.name for policy in policies])
        for policy in policies:
            status = policy_status(
                policy,
                matched=claims.nodes.get(policy.name, 0),
                contenders=claims.rivals.get(policy.name, frozenset()),
                checks_allowed=self._checks_allowed,
                now=self._clock(),
            )
            if status == policy.status:
                self._rounds.settled(policy.name)
                continue
            write = partial(self._write, policy, status)
            error = await self._rounds.attempt(policy.name, policy.resource_version, write)
            if error is not None:
                _log.warning(
                    "failed to write policy status", policy=policy.name, error=error.message
                )

    def _policies(self) -> list[Policy]:
        return [*self._state.policies, *self._state.policies.unreadable]

    async def _claims(self) -> PolicyClaims:
        """The claims on all nodes that are there and not left alone."""
        matching = [
            [policy.name for policy in self._state.matching(inventory.name)]
            async for inventory in in_turns(self._state.inventories)
            if not inventory.departed and self._state.skip_reason(inventory.name) is None
        ]
        return count_claims(matching)

    async def _write(self, policy: Policy, status: PolicyStatus) -> None:
        version = await apply_policy_status(
            self._client,
            name=policy.name,
            resource_version=policy.resource_version,
            status=status.to_json(),
            manager=MANAGER,
        )
        self._state.policies.put_status(policy, status, version=version)
