"""Quarantines: what follows from a change of them, or of the parts that they list.

Two loops: the first marks GPUs and sets taints within a second; the second writes the statuses of
the quarantines, after the nodes of a new fleet are listed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from gpuid_operator.api.inventory import InventoryStatus
from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.idle_gate import IdleGate
from gpuid_operator.engine.core.options import Options
from gpuid_operator.engine.core.turns import in_turns
from gpuid_operator.engine.reconcile.quarantine_list import QuarantineList
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.quarantine_clock import QuarantineClock
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.node_taints import NodeTainter
from gpuid_operator.engine.writing.quarantine_marks import QuarantineMarks
from gpuid_operator.engine.writing.quarantine_status import QuarantineStatuses
from gpuid_operator.engine.writing.rounds import WriteRounds
from gpuid_operator.engine.writing.status_writer import StatusWriter, StatusWritten
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.plan.quarantine import NO_RULES, Identifiers, QuarantineIndex, Rules
from gpuid_operator.plan.quarantine_taints import TaintPlan

MARKS_QUIET: Final = 0.2
"""Seconds between two rounds of marks: each looks at every GPU once."""
STATUS_QUIET: Final = 0.5
_LONGEST_WAIT: Final = timedelta(minutes=1)
"""After this the time is looked at again: the clocks may be stepped."""


class Quarantines:
    """Lists quarantines, marks GPUs, sets taints and writes the statuses of quarantines."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        status_writer: StatusWriter,
        recorder: EventRecorder,
        idle_gate: IdleGate,
        options: Options,
        availability_changed: Callable[[], None],
        clock: Callable[[], datetime],
    ) -> None:
        """See QuarantineList for `availability_changed`; `clock` is the clock of history."""
        self._state = state
        self._idle_gate = idle_gate
        self._clock = QuarantineClock(clock, lambda: client.server_time)
        state.quarantines.end_by(self._clock)
        self._rounds = WriteRounds(quiet=MARKS_QUIET)
        self._status_rounds = WriteRounds(quiet=STATUS_QUIET)
        self._marks = QuarantineMarks(
            state=state, status_writer=status_writer, rounds=self._rounds, clock=clock
        )
        self._tainter = NodeTainter(
            client,
            state=state,
            allowed=options.quarantine_taints,
            limit=options.quarantine_max_nodes,
        )
        self._statuses = QuarantineStatuses(
            client,
            quarantines=state.quarantines,
            recorder=recorder,
            rounds=self._status_rounds,
            clock=self._clock,
        )
        self._list = QuarantineList(
            client,
            quarantines=state.quarantines,
            changed=self._rounds.touch,
            availability_changed=availability_changed,
            period=options.timings.quarantine_look,
        )

    def loops(self) -> list[Loop]:
        return [
            *self._list.loops(),
            partial(self._rounds.run, self._enforce, due_in=self._due_in),
            partial(self._status_rounds.run, self._report),
        ]

    @property
    def available(self) -> bool:
        """Whether quarantines can be listed, and therefore are to be watched."""
        return bool(self._list.available)

    async def list_all(self) -> None:
        """List all quarantines, and find out whether they are available. Raises KubeError."""
        await self._list.run()

    def quarantine_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        """A quarantine was added, modified or deleted."""
        if self._state.quarantines.take(body, deleted=deleted):
            self._rounds.touch()

    def recheck(self) -> None:
        """Look at everything again, as after a resync."""
        self._marks.forget()
        self._rounds.touch()

    def status_written(self, written: StatusWritten) -> None:
        """See StatusListener: the GPUs of a quarantine may have come or gone."""
        before, after = written.before, written.after
        if (_marked(before) or _marked(after)) and before.gpus != after.gpus:
            self._rounds.touch()

    async def stop(self) -> None:
        """Hand over no more writes. The status writer finishes those that it has."""
        await self._marks.stop()

    async def _enforce(self) -> None:
        index, now = self._state.quarantines.index, self._clock()
        if index is None:
            return
        rules: defaultdict[str, Rules] = defaultdict(lambda: NO_RULES)
        async for node, _, found in self._find(index, now=now):
            rules[node] |= found
        self._marks.start(rules, index)
        plan = self._plan(rules, index, now=now)
        await self._tainter.write(plan, self._rounds)
        if plan.halted and None in plan.changes.values():
            self._rounds.touch()  # a taint that was removed makes room
        self._status_rounds.touch()

    async def _report(self) -> None:
        await self._idle_gate.wait()
        index, now = self._state.quarantines.index, self._clock()
        if index is None:
            return
        rules: defaultdict[str, Rules] = defaultdict(lambda: NO_RULES)
        listed: defaultdict[str, list[tuple[str, Identifiers]]] = defaultdict(list)
        async for node, gpu, found in self._find(index, now=now):
            rules[node] |= found
            for rule in found:
                listed[rule.name].append((node, gpu))
        for gpus in listed.values():
            gpus.sort(key=lambda item: item[0])
        plan = self._plan(rules, index, now=now) if self._tainter.allowed else None
        await self._statuses.write(listed, plan)

    async def _find(
        self, index: QuarantineIndex, *, now: datetime
    ) -> AsyncIterator[tuple[str, Identifiers, Rules]]:
        """(node, GPU, quarantines in force that list it) for each such GPU that is present."""
        if not index.rules:
            return
        async for cached in in_turns(self._state.inventories):
            if cached.identifiers and not cached.departed:
                for gpu, found in index.find_all(cached.identifiers, now=now):
                    yield cached.name, gpu, found

    def _plan(
        self, rules: defaultdict[str, Rules], index: QuarantineIndex, *, now: datetime
    ) -> TaintPlan:
        asking = {
            node: {rule.name for rule in found if rule.taint} for node, found in rules.items()
        }
        return self._tainter.plan(asking, index, now=now)

    def _due_in(self) -> float | None:
        """Seconds until the next quarantine ends."""
        index, now = self._state.quarantines.index, self._clock()
        end = index.next_end(now) if index is not None else None
        return None if end is None else min(end - now, _LONGEST_WAIT).total_seconds()


def _marked(status: InventoryStatus) -> bool:
    return any(gpu.quarantines for gpu in status.gpus or ())
