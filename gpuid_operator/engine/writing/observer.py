"""What the outside is told of each write: metrics, and Events for `kubectl describe`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from gpuid_operator.api.inventory import HistoryEntry, HistoryType, InventoryState, InventoryStatus
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.status_writer import StatusWritten
from gpuid_operator.kube.events import EventType
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

_WARNINGS: Final = frozenset(
    {
        HistoryType.GPU_REMOVED,
        HistoryType.GPU_LOST,
        HistoryType.CHECK_FAILED,
        HistoryType.DROPPED,
    }
)
_CHECKS: Final = frozenset({HistoryType.CHECK_FAILED, HistoryType.CHECK_PASSED})


class Observer:
    """Turns writes into metrics, log lines and Kubernetes Events."""

    def __init__(self, recorder: EventRecorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics

    def __call__(self, written: StatusWritten) -> None:
        self.show(written.name, written.after)
        entries = [entry for change in written.changes for entry in change.entries]
        for entry in entries:
            self._metrics.gpu_changes.labels(entry.type.value).inc()
        for change in written.changes:
            for sink, count in change.dropped.items():
                self._metrics.records_dropped.labels(sink).inc(count)
        if written.before.gpus is None:
            # A first read finds; it changes nothing.
            entries = [entry for entry in entries if entry.type in _CHECKS]
        by_type: dict[HistoryType, list[HistoryEntry]] = defaultdict(list)
        for entry in entries:
            if entry.type is not HistoryType.SIGHTED:
                by_type[entry.type].append(entry)
        for kind, group in by_type.items():
            words = event_message(group)
            what = "a check turned" if kind in _CHECKS else "hardware changed"
            _log.info(what, node=written.name, change=kind.value, what=words)
            severity = EventType.WARNING if kind in _WARNINGS else EventType.NORMAL
            self._recorder.post(
                written.name, written.uid, reason=kind.value, message=words, type=severity
            )

    def invalid(self, name: str, uid: str, fault: str) -> None:
        """Tell of an inventory that cannot be understood, and in which nothing can be written."""
        words = "the GPUInventory cannot be understood and is left alone"
        _log.error(words, node=name, error=fault)
        message = (
            f"{words} ({fault}); was it written by a later version of the operator? Install that"
            " version, or correct the object"
        )
        self._recorder.post(
            name, uid, reason="NotUnderstood", message=message, type=EventType.WARNING
        )

    def show(self, name: str, status: InventoryStatus) -> None:
        """Bring the metrics of a node in line with its status; of one that is gone there are
        none."""
        if status.state is not InventoryState.PRESENT:
            self._metrics.forget_node(name)
            return
        self._metrics.set_gpus(
            name,
            [
                (
                    gpu.uuid or "",
                    gpu.serial or "",
                    gpu.chassis_serial or "",
                    gpu.pci_address or "",
                    gpu.product or "",
                )
                for gpu in status.gpus or ()
            ],
        )
        results = {check.name: check.passed for check in status.checks or ()}
        self._metrics.set_checks(
            name, {check: passed for check, passed in results.items() if passed is not None}
        )
        if status.last_read_time is not None:
            self._metrics.set_last_read(name, status.last_read_time.timestamp())


def event_message(entries: Sequence[HistoryEntry]) -> str:
    """One sentence for all entries of one type."""
    return "; ".join(map(_describe, entries))


def _describe(entry: HistoryEntry) -> str:
    gpu = " ".join(
        part
        for part in (
            entry.product if entry.uuid or entry.serial or entry.pci_address else None,
            f"serial {entry.serial}" if entry.serial else None,
            entry.uuid,
            f"at {entry.pci_address}" if entry.pci_address else None,
        )
        if part
    )
    words = entry.message or (
        f"from {entry.from_ or 'none'} to {entry.to or 'none'}" if entry.from_ or entry.to else ""
    )
    return ": ".join(part for part in (gpu, words) if part) or (
        f"machine {entry.machine}" if entry.machine else entry.type.value
    )
