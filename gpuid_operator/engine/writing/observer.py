"""Reports each write: as metrics, log lines, and Events for `kubectl describe`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gpuid_operator.api.inventory import (
    GPU,
    ConditionStatus,
    ConditionType,
    HistoryEntry,
    HistoryType,
    InventoryState,
    InventoryStatus,
)
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.status_writer import StatusWritten
from gpuid_operator.kube.events import EventType
from gpuid_operator.plan.announcements import announcements
from gpuid_operator.plan.conditions import shown
from gpuid_operator.plan.status_change import StatusChange
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

_BOOL: Final[dict[ConditionStatus | None, bool]] = {
    ConditionStatus.TRUE: True,
    ConditionStatus.FALSE: False,
}
_VALUE: Final = {
    ConditionStatus.TRUE: 1.0,
    ConditionStatus.FALSE: 0.0,
    ConditionStatus.UNKNOWN: -1.0,
}


class Observer:
    """Turns writes into metrics, log lines and Kubernetes Events."""

    def __init__(self, recorder: EventRecorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics
        for kind in HistoryType:
            # `increase` does not see the first value of a counter that begins above 0.
            metrics.gpu_changes.labels(kind.value)

    def __call__(self, written: StatusWritten) -> None:
        """Report a write; see StatusListener."""
        self.show(written.name, written.after, before=written.before)
        for change in written.changes:
            self._count(change)
        entries = [entry for change in written.changes for entry in change.entries]
        self._announce(written, entries)
        self._announce_duplicates(written)

    def show(
        self, name: str, status: InventoryStatus, *, before: InventoryStatus | None = None
    ) -> None:
        """Set the metrics of a node to what its status says, or drop them if the node is gone.

        `before` is the status that the metrics show now, if that is known: the series of GPUs that
        are the same stay.
        """
        if status.state is not InventoryState.PRESENT:
            self._metrics.forget_node(name)
            return
        if before is None or before.state is not status.state or before.gpus != status.gpus:
            self._show_gpus(name, status.gpus or ())
        results = {check.name: check.passed for check in status.checks or ()}
        self._metrics.set_checks(
            name, {check: passed for check, passed in results.items() if passed is not None}
        )
        found = {one.type: one.status for one in status.conditions or ()}
        values: dict[str, float] = {
            kind: _VALUE[found[kind]] for kind in ConditionType if kind in found
        }
        self._metrics.set_conditions(name, values)
        self._metrics.set_as_expected(name, _BOOL.get(found.get(ConditionType.AS_EXPECTED)))
        if status.last_read_time is not None:
            self._metrics.set_last_read(name, status.last_read_time.timestamp())

    def _show_gpus(self, name: str, gpus: Sequence[GPU]) -> None:
        self._metrics.set_gpus(name, map(_identity, gpus))
        marks = [
            (gpu.uuid or "", gpu.serial or "", quarantine)
            for gpu in gpus
            for quarantine in gpu.quarantines or ()
        ]
        self._metrics.set_quarantined(name, marks)
        self._metrics.set_health(name, [series for gpu in gpus for series in _health(gpu)])

    def invalid(self, name: str, uid: str, fault: str) -> None:
        """Report an inventory that the operator cannot parse, and therefore does not write."""
        _log.error("failed to parse GPUInventory; skipping its node", node=name, error=fault)
        message = (
            f"Failed to parse the GPUInventory: {fault}. The operator skips this node. If a later"
            " version of the operator wrote the object, install that version; otherwise correct"
            " the object"
        )
        self._recorder.post(
            name, uid, reason="NotUnderstood", message=message, type=EventType.WARNING
        )

    def _count(self, change: StatusChange) -> None:
        for entry in change.entries:
            self._metrics.gpu_changes.labels(entry.type.value).inc()
        for sink, count in change.dropped.items():
            self._metrics.records_dropped.labels(sink).inc(count)

    def _announce(self, written: StatusWritten, entries: list[HistoryEntry]) -> None:
        for event in announcements(entries, first_read=written.before.gpus is None):
            _log.info(
                event.log_message,
                node=written.name,
                change=event.type.value,
                what=event.message,
            )
            self._recorder.post(
                written.name,
                written.uid,
                reason=event.type.value,
                message=event.message,
                type=EventType.WARNING if event.warning else EventType.NORMAL,
            )

    def _announce_duplicates(self, written: StatusWritten) -> None:
        """Report GPUs that other inventories list, too, when the first one is certain."""
        before, after = (
            shown(status.conditions, ConditionType.UNIQUE)
            for status in (written.before, written.after)
        )
        if after is None or after.status is not ConditionStatus.FALSE:
            return
        if before is None or before.status is not ConditionStatus.FALSE:
            _log.warning("found GPUs on several nodes", node=written.name, what=after.message)
            self._recorder.post(
                written.name,
                written.uid,
                reason=after.reason,
                message=after.message,
                type=EventType.WARNING,
            )


def _identity(gpu: GPU) -> tuple[str, str, str, str, str]:
    """The labels of `gpuid_gpu_info`."""
    return (
        gpu.uuid or "",
        gpu.serial or "",
        gpu.chassis_serial or "",
        gpu.pci_address or "",
        gpu.product or "",
    )


def _health(gpu: GPU) -> list[tuple[str, str, str, int]]:
    """The series of `gpuid_gpu_health`: labels and value; the kinds are fields of the status."""
    health = gpu.health
    if health is None:
        return []
    values = {
        "eccUncorrected": health.ecc_uncorrected,
        "remappedRowsPending": health.remapped_rows_pending,
        "remappedRowsFailed": health.remapped_rows_failed,
        "retiredPagesPending": health.retired_pages_pending,
    }
    uuid, serial = gpu.uuid or "", gpu.serial or ""
    return [(uuid, serial, kind, int(value)) for kind, value in values.items() if value]
