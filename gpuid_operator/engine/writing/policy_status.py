"""The statuses of policies: how many nodes each rules, and who contends with whom."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import Final

from gpuid_operator.api.meta import MANAGER
from gpuid_operator.api.policy import Policy, PolicyStatus
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import KubeError
from gpuid_operator.kube.policies import apply_policy_status
from gpuid_operator.plan.policy import policy_status
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

QUIET: Final = 2.0
"""Seconds between two rounds: a fleet that comes up changes the counts a thousand times."""


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
        self._client = client
        self._state = state
        self._inventories = state.inventories
        self._clock = clock
        self._checks_allowed = checks_allowed
        self._touched = asyncio.Event()
        self._touched.set()

    def touch(self) -> None:
        """Something that the statuses tell of may have changed."""
        self._touched.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._touched.wait()
            self._touched.clear()
            try:
                await self._round()
            except KubeError as error:
                _log.warning("the status of a policy was not written", error=error.message)
                self._touched.set()
            await asyncio.sleep(QUIET)

    async def _round(self) -> None:
        matched: Counter[str] = Counter()
        contenders: dict[str, set[str]] = defaultdict(set)
        for cached in self._inventories:
            if cached.departed or self._state.skip_reason(cached.name) is not None:
                continue
            claims = [policy.name for policy in self._state.matching(cached.name)]
            matched.update(claims[:1])
            for name in claims:
                contenders[name] |= set(claims) - {name}
        for policy in self._state.policies:
            status = policy_status(
                policy,
                matched=matched[policy.name],
                contenders=contenders[policy.name],
                checks_allowed=self._checks_allowed,
                now=self._clock(),
            )
            if status != policy.status:
                await self._write(policy, status)

    async def _write(self, policy: Policy, status: PolicyStatus) -> None:
        version = await apply_policy_status(
            self._client,
            name=policy.name,
            resource_version=policy.resource_version,
            status=status.to_json(),
            manager=MANAGER,
        )
        self._state.policies.put_status(policy, status, version=version)
