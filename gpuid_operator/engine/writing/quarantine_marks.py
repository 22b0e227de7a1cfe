"""Marks GPUs when quarantines change; a read marks the GPUs that it brings by itself.

The marks do not wait for the reconcile of a node, whose nvidia-smi may hang.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Final

from gpuid_operator.engine.core.background import Background
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.rounds import WriteRounds
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.plan import status as plan
from gpuid_operator.plan.quarantine import NO_RULES, QuarantineIndex, Rules
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_WRITERS: Final = 8

_Basis = tuple[str, Rules, frozenset[str]]
"""What the marks of a node were decided on: the uid of its inventory, the quarantines that list a
GPU of it, and those of its marks that cannot be parsed."""


class QuarantineMarks:
    """Writes the statuses of the nodes that a change of quarantines concerns."""

    def __init__(
        self,
        *,
        state: ClusterState,
        status_writer: StatusWriter,
        rounds: WriteRounds,
        clock: Callable[[], datetime],
    ) -> None:
        self._state = state
        self._status_writer = status_writer
        self._rounds = rounds
        self._clock = clock
        self._decided: dict[str, _Basis] = {}
        self._writing: set[str] = set()
        self._outdated: set[str] = set()
        """Nodes that need another decision after the one that is being written."""
        self._writes = Background()
        self._slots = asyncio.Semaphore(_WRITERS)

    def forget(self) -> None:
        """Decide on all nodes that a quarantine concerns again."""
        self._decided.clear()

    def start(self, found: Mapping[str, Rules], index: QuarantineIndex) -> None:
        """Start to write where the marks were decided on something else. `found` has the
        quarantines that list a GPU of a node."""
        concerned: set[str] = set()
        for cached in self._state.inventories:
            rules = found.get(cached.name, NO_RULES)
            if cached.departed or not (rules or cached.quarantines or cached.name in self._decided):
                continue
            concerned.add(cached.name)
            basis = (cached.uid, rules, index.unreadable.intersection(cached.quarantines))
            if cached.name in self._writing:
                self._outdated.add(cached.name)
            elif self._decided.get(cached.name) != basis:
                self._writing.add(cached.name)
                self._writes.start(self._write(cached.name, basis))
        for name in self._decided.keys() - concerned:
            del self._decided[name]

    async def stop(self) -> None:
        """Hand over no more writes to the status writer."""
        await self._writes.finish(within=0.0)

    async def _write(self, name: str, basis: _Basis) -> None:
        try:
            async with self._slots:
                decide = partial(self._decide, name, basis)
                version = str(hash(basis))
                error = await self._rounds.attempt(name, version, decide)
            if error is not None:
                _log.warning("failed to mark GPUs", node=name, error=error.message)
        finally:
            self._writing.discard(name)
            if name in self._outdated:
                self._outdated.discard(name)
                self._rounds.touch()

    async def _decide(self, name: str, basis: _Basis) -> None:
        decide = partial(plan.reconsidered, now=self._clock())
        change = await self._status_writer.write(name, decide, uid=basis[0])
        if change is None:
            return
        self._decided[name] = basis
        cached = self._state.inventories.get(name)
        if cached is not None and not cached.quarantines and not basis[1]:
            del self._decided[name]
