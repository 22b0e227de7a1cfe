"""What a delivery loop has written into statuses: each trouble once for each node."""

from __future__ import annotations

import pytest

from gpuid_operator.engine.delivery.outbox_entry import OutboxEntry
from gpuid_operator.engine.delivery.reporter import DeliveryReporter


class Status:
    """What was to be written."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int | str]] = []

    def outbox_entries(self, node: str, *, after: tuple[str, int] | None) -> list[OutboxEntry]:
        return []

    def serves(self, outbox_entry: OutboxEntry) -> bool:
        return True

    def delivered(self, node: str, *, uid: str, up_to: int) -> None:
        self.written.append((node, up_to))

    def failed(self, node: str, *, error: str) -> None:
        self.written.append((node, error))


@pytest.fixture
def status() -> Status:
    return Status()


@pytest.fixture
def notes(status: Status) -> DeliveryReporter:
    return DeliveryReporter(status)


def test_an_error_is_written_once_for_each_node(status: Status, notes: DeliveryReporter) -> None:
    notes.failed(["a"], "down")
    notes.failed(["a", "b"], "down")
    assert status.written == [("a", "down"), ("b", "down")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("503: request 0000f001-77", "503: request 0000f002-77"),
        ("down since 2026-06-07T10:30:45Z", "down since 2026-06-07T11:00:00Z"),
        ("no route from 10.0.0.1:51234", "no route from 10.0.0.1:51999"),
    ],
    ids=["request", "time", "port"],
)
def test_an_error_with_another_id_or_time_is_the_same(
    status: Status, notes: DeliveryReporter, first: str, second: str
) -> None:
    notes.failed(["a"], first)
    notes.failed(["a"], second)
    assert status.written == [("a", first)]


def test_an_error_with_another_status_is_another(status: Status, notes: DeliveryReporter) -> None:
    notes.failed(["a"], "503 busy")
    notes.failed(["a"], "504 gone")
    notes.failed(["a"], "503 busy")
    assert [words for _, words in status.written] == ["503 busy", "504 gone", "503 busy"]


def test_an_error_after_a_delivery_is_written_again(
    status: Status, notes: DeliveryReporter
) -> None:
    notes.failed(["a"], "down")
    notes.delivered("a", uid="u", up_to=7)
    notes.failed(["a"], "down")
    assert status.written == [("a", "down"), ("a", 7), ("a", "down")]


def test_an_error_is_written_for_an_inventory_that_is_made_anew(
    status: Status, notes: DeliveryReporter
) -> None:
    notes.failed(["a"], "down")
    notes.forget("a")
    notes.forget("a")
    notes.failed(["a"], "down")
    assert status.written == [("a", "down"), ("a", "down")]
