"""Where the results of checks are stored, as the workers see it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from gpuid_operator.api.inventory import CheckStatus
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.kube.events import EventType
from gpuid_operator.plan.checks import CheckResult
from gpuid_operator.plan.restarts import CheckOnNode


class CheckResultStore(Protocol):
    """Stores results, and knows which checks each node has."""

    def jobs(self, node: str) -> Sequence[CheckJob]:
        """The checks that a node runs now; empty while the node is suspended."""

    def check(self, node: str, name: str) -> CheckStatus | None:
        """The last result of a check on a node, without its output."""

    def known(self) -> Sequence[CheckOnNode]:
        """The last results of all checks on all nodes, from every instance, without output."""

    async def refresh(self) -> None:
        """Update `known` with the writes of other instances. Raises KubeError."""

    async def record(self, node: str, result: CheckResult) -> None:
        """Store a result. Raises KubeError."""

    async def record_restart(self, node: str, name: str, *, now: datetime) -> bool:
        """Store that the pod of a check is about to be restarted.

        Returns False if the pod must not be restarted because another instance changed the check
        meanwhile. Raises KubeError.
        """

    def record_event(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        """Post an Event about the inventory of a node, if there is one."""
