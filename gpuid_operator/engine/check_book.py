"""Where the inventory instance keeps the results of policies' checks: with all else it knows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from gpuid_operator.api.inventory import CheckStatus, InventoryStatus
from gpuid_operator.api.meta import MAX_CHECKS
from gpuid_operator.api.policy import Check, OnFailure
from gpuid_operator.api.values import whole_seconds
from gpuid_operator.engine.check_job import CheckJob
from gpuid_operator.engine.commit import Committer
from gpuid_operator.engine.event_posts import EventPosts
from gpuid_operator.engine.fleet import Fleet, node_info
from gpuid_operator.engine.held import Inventories
from gpuid_operator.engine.sources import Source
from gpuid_operator.kube.events import EventType
from gpuid_operator.plan.checks import CheckResult, after_check, find
from gpuid_operator.plan.outcome import Outcome, Terms
from gpuid_operator.plan.policy import runnable, selector_text
from gpuid_operator.plan.restarts import CheckOnNode, after_restart
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class InventoryBook:
    """The checks of the policies in force, and their results in the inventories."""

    def __init__(
        self,
        posts: EventPosts,
        *,
        fleet: Fleet,
        inventories: Inventories,
        committer: Committer,
        clock: Callable[[], datetime],
    ) -> None:
        self._posts = posts
        self._fleet = fleet
        self._inventories = inventories
        self._committer = committer
        self._clock = clock
        self._taken: set[str] = set()

    def every_job(self) -> list[CheckJob]:
        """All checks that any policy asks for."""
        return [
            self._job(check) for policy in self._fleet.policies for check in runnable(policy.spec)
        ]

    def jobs(self, node: str) -> Sequence[CheckJob]:
        held = self._inventories.get(node)
        if held is None:
            if self._inventories.is_illegible(node) or not self._fleet.is_gpu_node(node):
                return ()
        elif held.departed or self._fleet.in_doubt(held):
            return ()
        force = self._fleet.force(node, held)
        if force.suspended:
            return ()
        foreign = held.foreign_checks if held else frozenset()
        for name in foreign & {check.name for check in force.checks} - self._taken:
            self._taken.add(name)
            words = "a check is not run: another instance has one of this name; rename one of them"
            _log.warning(words, check=name, node=node)
        mine = [check for check in force.checks if check.name not in foreign]
        return [self._job(check) for check in mine[: MAX_CHECKS - len(foreign)]]

    def check(self, node: str, name: str) -> CheckStatus | None:
        held = self._inventories.get(node)
        return next((item for item in held.checks if item.name == name), None) if held else None

    def known(self) -> Sequence[CheckOnNode]:
        return [
            CheckOnNode(held.name, check, present=not held.departed)
            for held in self._inventories
            for check in held.checks
        ]

    async def refresh(self) -> None:
        """Nothing to do: inventories are watched."""

    async def note(self, node: str, result: CheckResult) -> None:
        now = self._clock()
        known = self._fleet.nodes.get(node)
        facts = node_info(known.facts) if known else None

        def change(previous: InventoryStatus, terms: Terms) -> Outcome:
            return after_check(previous, result, node=facts, now=now, terms=terms)

        await self._committer.commit(node, change, create=True)

    async def note_restart(self, node: str, name: str, *, now: datetime) -> bool:
        known = self.check(node, name)
        since = known.last_restart_time if known else None

        def change(previous: InventoryStatus, terms: Terms) -> Outcome:
            return after_restart(previous, name, since=since, now=now, terms=terms)

        outcome = await self._committer.commit(node, change)
        noted = find(outcome.status, name) if outcome else None
        return noted is not None and noted.last_restart_time == whole_seconds(now)

    def tell(self, node: str, *, reason: str, message: str, type: EventType) -> None:  # noqa: A002
        held = self._inventories.get(node)
        if held is not None:
            self._posts.post(node, held.uid, reason=reason, message=message, type=type)

    def _job(self, check: Check) -> CheckJob:
        timeout = timedelta(seconds=30) if check.timeout is None else check.timeout
        interval = timedelta(hours=1) if check.interval is None else check.interval
        return CheckJob(
            name=check.name,
            source=Source(self._fleet.targets[0].namespace, selector_text(check.pod_selector)),
            container=check.container,
            command=check.command,
            timeout=timeout,
            interval=interval,
            restart=check.on_failure is OnFailure.RESTART_POD,
        )
