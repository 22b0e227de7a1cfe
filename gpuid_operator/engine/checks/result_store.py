"""Where the inventory instance keeps the results of policies' checks: with all else it knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from gpuid_operator.api.inventory import CheckStatus, InventoryStatus
from gpuid_operator.api.meta import MAX_CHECKS
from gpuid_operator.api.policy import Check, OnFailure
from gpuid_operator.api.values import whole_seconds
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.nodes import node_info
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.events import EventType
from gpuid_operator.plan.checks import CheckResult, after_check, find
from gpuid_operator.plan.policy import runnable, selector_text
from gpuid_operator.plan.restarts import CheckOnNode, after_restart
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class InventoryResultStore:
    """The checks of the policies in force, and their results in the inventories."""

    def __init__(
        self,
        recorder: EventRecorder,
        *,
        state: ClusterState,
        status_writer: StatusWriter,
        clock: Callable[[], datetime],
    ) -> None:
        self._recorder = recorder
        self._state = state
        self._inventories = state.inventories
        self._status_writer = status_writer
        self._clock = clock
        self._taken: set[str] = set()

    def every_job(self) -> list[CheckJob]:
        """All checks that any policy asks for."""
        return [
            self._job(check) for policy in self._state.policies for check in runnable(policy.spec)
        ]

    def jobs(self, node: str) -> Sequence[CheckJob]:
        cached = self._inventories.get(node)
        if cached is None:
            if self._state.skip_reason(node) is not None or not self._state.is_gpu_node(node):
                return ()
        elif cached.departed or self._state.skip_reason(node) is not None:
            return ()
        effective = self._state.effective_policy(node, cached)
        if effective.suspended:
            return ()
        foreign = cached.foreign_checks if cached else frozenset()
        for name in foreign & {check.name for check in effective.checks} - self._taken:
            self._taken.add(name)
            words = "a check is not run: another instance has one of this name; rename one of them"
            _log.warning(words, check=name, node=node)
        mine = [check for check in effective.checks if check.name not in foreign]
        return [self._job(check) for check in mine[: MAX_CHECKS - len(foreign)]]

    def check(self, node: str, name: str) -> CheckStatus | None:
        cached = self._inventories.get(node)
        return next((item for item in cached.checks if item.name == name), None) if cached else None

    def known(self) -> Sequence[CheckOnNode]:
        return [
            CheckOnNode(cached.name, check, present=not cached.departed)
            for cached in self._inventories
            for check in cached.checks
        ]

    async def refresh(self) -> None:
        """Nothing to do: inventories are watched."""

    async def record(self, node: str, result: CheckResult) -> None:
        now = self._clock()
        known = self._state.nodes.get(node)
        facts = node_info(known.facts) if known else None

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return after_check(previous, result, node=facts, now=now, context=context)

        await self._status_writer.write(node, decide, create=True)

    async def record_restart(self, node: str, name: str, *, now: datetime) -> bool:
        known = self.check(node, name)
        since = known.last_restart_time if known else None

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return after_restart(previous, name, since=since, now=now, context=context)

        change = await self._status_writer.write(node, decide)
        noted = find(change.status, name) if change else None
        return noted is not None and noted.last_restart_time == whole_seconds(now)

    def record_event(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        cached = self._inventories.get(node)
        if cached is not None:
            self._recorder.post(node, cached.uid, reason=reason, message=message, type=type)

    def _job(self, check: Check) -> CheckJob:
        timeout = timedelta(seconds=30) if check.timeout is None else check.timeout
        interval = timedelta(hours=1) if check.interval is None else check.interval
        return CheckJob(
            name=check.name,
            source=PodSelector(
                self._state.pods.targets[0].namespace, selector_text(check.pod_selector)
            ),
            container=check.container,
            command=check.command,
            timeout=timeout,
            interval=interval,
            restart=check.on_failure is OnFailure.RESTART_POD,
        )
