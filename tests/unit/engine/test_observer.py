"""The report of a write: metrics, log lines, Events."""

from __future__ import annotations

from typing import Any

import pytest

from gpuid_operator.api.inventory import HistoryEntry, HistoryType, InventoryStatus
from gpuid_operator.engine.writing.event_recorder import EventRecorder
from gpuid_operator.engine.writing.observer import Observer
from gpuid_operator.engine.writing.status_writer import StatusWritten
from gpuid_operator.plan.status_change import StatusChange
from gpuid_operator.telemetry.metrics import Metrics
from tests.support.kube import EVENTS, FakeKube

GPU: dict[str, Any] = {
    "uuid": "GPU-1",
    "serial": "s1",
    "chassisSerial": "c1",
    "pciAddress": "00000000:1B:00.0",
    "product": "H100",
}
READ = InventoryStatus.model_validate(
    {"state": "Present", "gpus": [GPU], "lastReadTime": "2026-06-07T10:30:45Z"}
)
NEVER_READ = InventoryStatus()


def entry(kind: HistoryType, **fields: Any) -> HistoryEntry:
    given = {"sequence": 1, "time": "2026-06-07T10:30:45Z", "type": kind}
    return HistoryEntry.model_validate(given | fields)


class Reports:
    """An observer, and the Events and metrics that it leaves."""

    def __init__(self, kube: FakeKube) -> None:
        self._kube = kube
        self._recorder = EventRecorder(kube)
        self.metrics = Metrics()
        self.observer = Observer(self._recorder, self.metrics)

    async def write(
        self,
        *entries: HistoryEntry,
        before: InventoryStatus = READ,
        after: InventoryStatus = READ,
        dropped: dict[str, int] | None = None,
    ) -> list[tuple[str, str, str]]:
        """Report a write with these entries; type, reason and message of each Event."""
        changes = (StatusChange(after, entries, dropped=dropped or {}), StatusChange(after))
        self.observer(StatusWritten("n1", "u1", before, after, changes))
        return await self.events()

    async def events(self) -> list[tuple[str, str, str]]:
        assert await self._recorder.finish(within=10)
        posted = [one.body for one in self._kube.asked("POST", EVENTS)]
        assert all(body["involvedObject"]["name"] == "n1" for body in posted)
        assert all(body["involvedObject"]["uid"] == "u1" for body in posted)
        return [(body["type"], body["reason"], body["message"]) for body in posted]

    def series(self, start: str) -> list[str]:
        """The lines of a scrape that start with this text."""
        return [
            line
            for line in self.metrics.render()[1].decode().splitlines()
            if line.startswith(start)
        ]


@pytest.fixture
def reports(kube: FakeKube) -> Reports:
    return Reports(kube)


async def test_a_first_read_posts_no_event(reports: Reports) -> None:
    added = entry(HistoryType.GPU_ADDED, uuid="GPU-1")
    assert await reports.write(added, before=NEVER_READ) == []
    # The metric counts the entry nevertheless.
    assert reports.series('gpuid_gpu_changes_total{type="GPUAdded"}') == [
        'gpuid_gpu_changes_total{type="GPUAdded"} 1.0'
    ]


async def test_a_check_that_fails_before_the_first_read_posts_an_event(reports: Reports) -> None:
    failed = entry(HistoryType.CHECK_FAILED, message="check a failed")
    added = entry(HistoryType.GPU_ADDED, uuid="GPU-1")
    assert await reports.write(failed, added, before=NEVER_READ) == [
        ("Warning", "CheckFailed", "check a failed")
    ]


async def test_a_sighting_posts_no_event(reports: Reports) -> None:
    assert await reports.write(entry(HistoryType.SIGHTED)) == []


async def test_entries_of_one_type_post_one_event(
    reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    events = await reports.write(
        entry(HistoryType.GPU_REMOVED, serial="s1"),
        entry(HistoryType.GPU_ADDED, serial="s3"),
        entry(HistoryType.GPU_REMOVED, serial="s2"),
    )
    assert events == [
        ("Warning", "GPURemoved", "serial s1; serial s2"),
        ("Normal", "GPUAdded", "serial s3"),
    ]
    assert len(caplog.records) == 2
    assert reports.series('gpuid_gpu_changes_total{type="GPURemoved"}')[0].endswith(" 2.0")


async def test_entries_that_a_sink_never_receives_are_counted(reports: Reports) -> None:
    await reports.write(dropped={"out": 3})
    await reports.write(dropped={"out": 2})
    assert reports.series("gpuid_records_dropped_total") == [
        'gpuid_records_dropped_total{sink="out"} 5.0'
    ]


async def test_metrics_show_the_gpus_of_a_node_until_it_departs(reports: Reports) -> None:
    checks = [{"name": "a", "passed": False}, {"name": "b", "passed": True}, {"name": "c"}]
    status = InventoryStatus.model_validate(READ.to_json() | {"checks": checks})
    reports.observer.show("n1", status)
    assert reports.series("gpuid_gpu_info{") == [
        'gpuid_gpu_info{node="n1",uuid="GPU-1",serial="s1",chassis="c1",pci="00000000:1B:00.0",'
        'product="H100"} 1.0'
    ]
    assert reports.series("gpuid_check_passed{") == [
        'gpuid_check_passed{check="a",node="n1"} 0.0',
        'gpuid_check_passed{check="b",node="n1"} 1.0',
    ]
    assert reports.series("gpuid_last_read_timestamp_seconds{") == [
        'gpuid_last_read_timestamp_seconds{node="n1"} 1780828245.0'
    ]
    departed = InventoryStatus.model_validate(status.to_json() | {"state": "Departed"})
    reports.observer.show("n1", departed)
    for family in ("gpu_info", "check_passed", "last_read_timestamp_seconds"):
        assert reports.series(f"gpuid_{family}{{") == []


async def test_metrics_show_the_conditions_and_the_health_until_the_node_departs(
    reports: Reports,
) -> None:
    health = {"eccUncorrected": 3, "remappedRowsPending": True, "remappedRowsFailed": False}
    conditions = [
        {
            "type": kind,
            "status": status,
            "reason": "R",
            "lastTransitionTime": "2026-06-07T10:30:45Z",
        }
        for kind, status in (("Ready", "True"), ("Healthy", "False"), ("Unique", "Unknown"))
    ]
    status = InventoryStatus.model_validate(
        READ.to_json() | {"gpus": [GPU | {"health": health}], "conditions": conditions}
    )
    reports.observer.show("n1", status)
    assert reports.series("gpuid_inventory_condition{") == [
        'gpuid_inventory_condition{node="n1",condition="Ready"} 1.0',
        'gpuid_inventory_condition{node="n1",condition="Healthy"} 0.0',
        'gpuid_inventory_condition{node="n1",condition="Unique"} -1.0',
    ]
    labels = 'node="n1",uuid="GPU-1",serial="s1"'
    assert reports.series("gpuid_gpu_health{") == [
        f'gpuid_gpu_health{{{labels},kind="eccUncorrected"}} 3.0',
        f'gpuid_gpu_health{{{labels},kind="remappedRowsPending"}} 1.0',
    ]
    reports.observer.show(
        "n1", InventoryStatus.model_validate(status.to_json() | {"state": "Departed"})
    )
    assert reports.series("gpuid_inventory_condition{") == []
    assert reports.series("gpuid_gpu_health{") == []


async def test_metrics_show_the_gpus_of_each_write(reports: Reports) -> None:
    def serials() -> list[str]:
        lines = reports.series("gpuid_gpu_info{")
        return [line.partition('serial="')[2].partition('"')[0] for line in lines]

    def status(**fields: Any) -> InventoryStatus:
        return InventoryStatus.model_validate(READ.to_json() | fields)

    other = status(gpus=[GPU | {"serial": "s2"}])
    departed = status(state="Departed")
    await reports.write(before=NEVER_READ, after=READ)
    assert serials() == ["s1"]
    await reports.write(before=READ, after=READ.model_copy(update={"sequence": 2}))
    assert serials() == ["s1"]
    await reports.write(before=READ, after=other)
    assert serials() == ["s2"]
    await reports.write(before=READ, after=departed)
    assert serials() == []
    await reports.write(before=departed, after=READ)
    assert serials() == ["s1"]


async def test_a_condition_of_another_writer_is_no_metric(reports: Reports) -> None:
    foreign = {
        "type": "Theirs",
        "status": "True",
        "reason": "R",
        "lastTransitionTime": "2026-06-07T10:30:45Z",
    }
    reports.observer.show(
        "n1", InventoryStatus.model_validate(READ.to_json() | {"conditions": [foreign]})
    )
    assert reports.series("gpuid_inventory_condition{") == []


async def test_a_node_without_a_read_has_no_last_read_metric(reports: Reports) -> None:
    reports.observer.show("n1", InventoryStatus.model_validate({"state": "Present", "gpus": [{}]}))
    assert reports.series("gpuid_last_read_timestamp_seconds{") == []
    assert reports.series("gpuid_gpu_info{") == [
        'gpuid_gpu_info{node="n1",uuid="",serial="",chassis="",pci="",product=""} 1.0'
    ]


async def test_an_inventory_that_cannot_be_parsed_is_reported(
    reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    reports.observer.invalid("n1", "u1", "status.state: Input should be 'Present' or 'Departed'")
    ((severity, reason, message),) = await reports.events()
    assert (severity, reason) == ("Warning", "NotUnderstood")
    assert "status.state: Input should be" in message
    assert [record.levelname for record in caplog.records] == ["ERROR"]
