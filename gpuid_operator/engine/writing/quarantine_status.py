"""The statuses of quarantines: where their parts are, and whether they do what they ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

from gpuid_operator.api.meta import MANAGER, QUARANTINE_KIND
from gpuid_operator.api.quarantine import Quarantine, QuarantineStatus
from gpuid_operator.engine.state.quarantines import QuarantineCache
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.rounds import WriteRounds
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.events import EventType
from gpuid_operator.kube.quarantines import apply_quarantine_status
from gpuid_operator.plan.quarantine_status import (
    TAINTS_HALTED,
    Found,
    quarantine_status,
    ready_of,
)
from gpuid_operator.plan.quarantine_taints import TaintPlan
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class QuarantineStatuses:
    """Writes the status of each quarantine when it changed."""

    def __init__(
        self,
        client: KubeClient,
        *,
        quarantines: QuarantineCache,
        recorder: EventRecorder,
        rounds: WriteRounds,
        clock: Callable[[], datetime],
    ) -> None:
        self._client = client
        self._quarantines = quarantines
        self._recorder = recorder
        self._rounds = rounds
        self._clock = clock

    async def write(self, found: Mapping[str, Sequence[Found]], taints: TaintPlan | None) -> None:
        """Write what changed. `found` has the GPUs that each quarantine lists, by its name."""
        quarantines = list(self._quarantines)
        self._rounds.keep_only([quarantine.name for quarantine in quarantines])
        for quarantine in quarantines:
            status = self._next(quarantine, found.get(quarantine.name, ()), taints)
            if status is None or status == quarantine.status:
                self._rounds.settled(quarantine.name)
                continue
            write = partial(self._write, quarantine, status)
            error = await self._rounds.attempt(quarantine.name, quarantine.resource_version, write)
            if error is not None:
                _log.warning(
                    "failed to write quarantine status",
                    quarantine=quarantine.name,
                    error=error.message,
                )

    def _next(
        self, quarantine: Quarantine, found: Sequence[Found], taints: TaintPlan | None
    ) -> QuarantineStatus | None:
        """The next status; None where it stays as it is, because deciding on it failed."""
        try:
            return quarantine_status(quarantine, found=found, taints=taints, now=self._clock())
        except Exception:  # one quarantine must not keep the statuses of all others
            _log.exception("failed to decide on status", quarantine=quarantine.name)
            return None

    async def _write(self, quarantine: Quarantine, status: QuarantineStatus) -> None:
        version = await apply_quarantine_status(
            self._client,
            name=quarantine.name,
            resource_version=quarantine.resource_version,
            status=status.to_json(),
            manager=MANAGER,
        )
        self._quarantines.put_status(quarantine, status, version=version)
        self._announce(quarantine, status)

    def _announce(self, quarantine: Quarantine, status: QuarantineStatus) -> None:
        """Post one Event when the taints of a quarantine are halted."""
        before, after = ready_of(quarantine.status), ready_of(status)
        if after is None or after.reason != TAINTS_HALTED:
            return
        if before is None or before.reason != TAINTS_HALTED:
            self._recorder.post(
                quarantine.name,
                quarantine.uid,
                kind=QUARANTINE_KIND,
                reason=TAINTS_HALTED,
                message=after.message,
                type=EventType.WARNING,
            )
