"""Stores the results of the policies' checks in the statuses of the inventories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.api.inventory import CheckStatus, InventoryStatus
from gpuid_operator.api.meta import MAX_CHECKS
from gpuid_operator.api.policy import Check, OnFailure
from gpuid_operator.api.values import whole_seconds
from gpuid_operator.engine.checks.job import CheckJob
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.node_view import NodeView
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

_DEFAULT_TIMEOUT: Final = timedelta(seconds=30)
_DEFAULT_INTERVAL: Final = timedelta(hours=1)


class InventoryResultStore:
    """The checks of the effective policies, and their results. See CheckResultStore."""

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
        self._status_writer = status_writer
        self._clock = clock
        self._reported: set[str] = set()

    def every_job(self) -> list[CheckJob]:
        """The checks of all policies, whether or not a policy is effective anywhere."""
        return [
            self._job(check) for policy in self._state.policies for check in runnable(policy.spec)
        ]

    def jobs(self, node: str) -> Sequence[CheckJob]:
        view = self._state.view(node)
        if not self._runs_checks(view):
            return ()
        foreign, checks = view.foreign_checks, view.policy.checks
        self._report_conflicts(node, foreign & {check.name for check in checks})
        own = [check for check in checks if check.name not in foreign]
        return [self._job(check) for check in own[: MAX_CHECKS - len(foreign)]]

    def check(self, node: str, name: str) -> CheckStatus | None:
        inventory = self._state.inventories.get(node)
        checks = inventory.checks if inventory else ()
        return next((check for check in checks if check.name == name), None)

    def known(self) -> Sequence[CheckOnNode]:
        return [
            CheckOnNode(inventory.name, check, present=not inventory.departed)
            for inventory in self._state.inventories
            for check in inventory.checks
        ]

    async def refresh(self) -> None:
        """Does nothing: the engine watches inventories."""

    async def record(self, node: str, result: CheckResult) -> None:
        now = self._clock()
        known = self._state.nodes.get(node)
        info = node_info(known.facts) if known else None

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return after_check(previous, result, node=info, now=now, context=context)

        await self._status_writer.write(node, decide, create=True)

    async def record_restart(self, node: str, name: str, *, now: datetime) -> bool:
        last = self.check(node, name)
        since = last.last_restart_time if last else None

        def decide(previous: InventoryStatus, context: StatusContext) -> StatusChange:
            return after_restart(previous, name, since=since, now=now, context=context)

        change = await self._status_writer.write(node, decide)
        stored = find(change.status, name) if change else None
        return stored is not None and stored.last_restart_time == whole_seconds(now)

    def record_event(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        inventory = self._state.inventories.get(node)
        if inventory is not None:
            self._recorder.post(node, inventory.uid, reason=reason, message=message, type=type)

    def _runs_checks(self, view: NodeView) -> bool:
        """Whether a node runs checks: a GPU node that is present and neither skipped nor
        suspended. An inventory proves that the node is a GPU node."""
        is_gpu_node = view.inventory is not None or self._state.is_gpu_node(view.name)
        return is_gpu_node and not (view.skip or view.departed or view.suspended)

    def _report_conflicts(self, node: str, names: frozenset[str]) -> None:
        """Log once per name that another instance has a check of that name."""
        for name in names - self._reported:
            self._reported.add(name)
            _log.warning(
                "skipped check because another instance runs a check of this name; rename one",
                check=name,
                node=node,
            )

    def _job(self, check: Check) -> CheckJob:
        namespace = self._state.pods.first_namespace
        return CheckJob(
            name=check.name,
            source=PodSelector(namespace, selector_text(check.pod_selector)),
            container=check.container,
            command=check.command,
            timeout=_DEFAULT_TIMEOUT if check.timeout is None else check.timeout,
            interval=_DEFAULT_INTERVAL if check.interval is None else check.interval,
            restart=check.on_failure is OnFailure.RESTART_POD,
        )
