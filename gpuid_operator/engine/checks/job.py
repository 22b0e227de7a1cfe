"""A check as it is run on a node, and what keeps its results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Protocol

from gpuid_operator.api.inventory import CheckStatus
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.events import EventType
from gpuid_operator.plan.checks import CheckResult, digest_of
from gpuid_operator.plan.restarts import CheckOnNode


@dataclass(frozen=True, kw_only=True)
class CheckJob:
    """A check as it is run on a node."""

    name: str
    source: PodSelector
    container: str | None
    command: str
    """Script for `/bin/sh -c`."""
    timeout: timedelta
    interval: timedelta
    restart: bool
    """Whether a failure restarts the pod, within the guards."""

    @cached_property
    def digest(self) -> str:
        """Of what is run and where: a result under another one is not of this check."""
        where = (self.source.namespace, self.source.selector, self.container or "")
        return digest_of(*where, self.command)


class CheckResultStore(Protocol):
    """Where the results of checks are kept."""

    def jobs(self, node: str) -> Sequence[CheckJob]:
        """The checks that are to run on a node now; none while it is suspended."""

    def check(self, node: str, name: str) -> CheckStatus | None:
        """The last result of a check on a node, without its output."""

    def known(self) -> Sequence[CheckOnNode]:
        """The last results of all checks on all nodes, whoever ran them, without their output."""

    async def refresh(self) -> None:
        """See to it that `known` has what other instances wrote. Raises KubeError."""

    async def record(self, node: str, result: CheckResult) -> None:
        """Keep a result. Raises KubeError."""

    async def record_restart(self, node: str, name: str, *, now: datetime) -> bool:
        """Keep that the pod is about to be restarted; False where it must not be, because what is
        known of it is not the latest. Raises KubeError."""

    def record_event(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        """Post an Event about the node's inventory."""
