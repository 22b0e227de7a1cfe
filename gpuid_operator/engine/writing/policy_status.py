"""The statuses of policies: how many nodes each applies to, and which of them conflict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.policy import Policy, PolicyStatus
from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.kube.policies import apply_policy_status
from gpuid_operator.plan.policy import policy_status
from gpuid_operator.plan.policy_claims import PolicyClaims, count_claims
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

QUIET: Final = 2.0
"""Seconds between two rounds. While a cluster starts, the counts change with every node."""

_FIRST_PAUSE: Final = timedelta(seconds=4)
_LONGEST_PAUSE: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class _Failure:
    """The failed writes of one policy in a row."""

    count: int
    version: str
    """The resourceVersion of the policy. A later version is written at once."""
    retry_at: float
    """Seconds of the loop's clock."""


class PolicyStatuses:
    """Writes the status of each policy when it changed.

    A policy whose status cannot be written is retried with back-off, and delays no other policy.
    """

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
        self._touched = asyncio.Event()
        self._touched.set()
        self._failures: dict[str, _Failure] = {}

    def touch(self) -> None:
        """Ask for a round: a policy, or the policy of a node, changed."""
        self._touched.set()

    async def run(self) -> None:
        """Write until cancelled. Each round writes what changed since the last one."""
        while True:
            await self._wait()
            self._touched.clear()
            await self._round()
            await asyncio.sleep(QUIET)

    async def _wait(self) -> None:
        """Wait until something changed or a failed write is due again."""
        retry_at = min((failure.retry_at for failure in self._failures.values()), default=None)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(retry_at):
                await self._touched.wait()

    async def _round(self) -> None:
        claims = self._claims()
        policies = [*self._state.policies, *self._state.policies.unreadable]
        for name in self._failures.keys() - {policy.name for policy in policies}:
            del self._failures[name]
        for policy in policies:
            status = policy_status(
                policy,
                matched=claims.nodes.get(policy.name, 0),
                contenders=claims.rivals.get(policy.name, frozenset()),
                checks_allowed=self._checks_allowed,
                now=self._clock(),
            )
            if status == policy.status:
                self._failures.pop(policy.name, None)
            elif not self._backs_off(policy):
                await self._try_write(policy, status)

    def _backs_off(self, policy: Policy) -> bool:
        failure = self._failure(policy)
        return failure is not None and asyncio.get_running_loop().time() < failure.retry_at

    def _failure(self, policy: Policy) -> _Failure | None:
        """The failures of this version of a policy."""
        failure = self._failures.get(policy.name)
        return failure if failure and failure.version == policy.resource_version else None

    async def _try_write(self, policy: Policy, status: PolicyStatus) -> None:
        try:
            await self._write(policy, status)
        except KubeError as error:
            known = self._failure(policy)
            count = known.count + 1 if known else 1
            pause = backoff(count, chance=chance(), first=_FIRST_PAUSE, most=_LONGEST_PAUSE)
            retry_at = asyncio.get_running_loop().time() + pause.total_seconds()
            self._failures[policy.name] = _Failure(count, policy.resource_version, retry_at)
            _log.warning("failed to write policy status", policy=policy.name, error=error.message)
        else:
            self._failures.pop(policy.name, None)

    def _claims(self) -> PolicyClaims:
        """The claims on all nodes that are there and not left alone."""
        return count_claims(
            [policy.name for policy in self._state.matching(inventory.name)]
            for inventory in self._state.inventories
            if not inventory.departed and self._state.skip_reason(inventory.name) is None
        )

    async def _write(self, policy: Policy, status: PolicyStatus) -> None:
        version = await apply_policy_status(
            self._client,
            name=policy.name,
            resource_version=policy.resource_version,
            status=status.to_json(),
            manager=MANAGER,
        )
        self._state.policies.put_status(policy, status, version=version)
