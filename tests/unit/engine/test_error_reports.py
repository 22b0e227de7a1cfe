"""Errors of a sink reach the status of each node once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gpuid_operator.engine.delivery.error_reports import DeliveryReporter
from gpuid_operator.engine.delivery.outbox_entry import Position


class Status:
    """Collects the reports."""

    def __init__(self) -> None:
        self.written: list[tuple[str, int | str]] = []

    def delivered(self, node: str, position: Position, *, written: Callable[[], None]) -> None:
        self.written.append((node, position.sequence))
        written()

    def failed(self, node: str, *, error: str) -> None:
        self.written.append((node, error))


@pytest.fixture
def status() -> Status:
    return Status()


@pytest.fixture
def reporter(status: Status) -> DeliveryReporter:
    return DeliveryReporter(status)


def test_an_error_is_written_once_for_each_node(status: Status, reporter: DeliveryReporter) -> None:
    reporter.failed(["a"], "down")
    reporter.failed(["a", "b"], "down")
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
def test_an_error_that_differs_in_an_id_or_a_time_is_the_same(
    status: Status, reporter: DeliveryReporter, first: str, second: str
) -> None:
    reporter.failed(["a"], first)
    reporter.failed(["a"], second)
    assert status.written == [("a", first)]


def test_an_error_with_another_status_is_a_new_one(
    status: Status, reporter: DeliveryReporter
) -> None:
    reporter.failed(["a"], "503 busy")
    reporter.failed(["a"], "504 gone")
    reporter.failed(["a"], "503 busy")
    assert [words for _, words in status.written] == ["503 busy", "504 gone", "503 busy"]


def test_an_error_after_a_delivery_is_written_again(
    status: Status, reporter: DeliveryReporter
) -> None:
    reporter.failed(["a"], "down")
    reporter.delivered("a", Position("u", 7), written=lambda: None)
    reporter.failed(["a"], "down")
    assert status.written == [("a", "down"), ("a", 7), ("a", "down")]


def test_an_error_is_written_for_an_inventory_that_is_created_again(
    status: Status, reporter: DeliveryReporter
) -> None:
    reporter.failed(["a"], "down")
    reporter.forget("a")
    reporter.forget("a")
    reporter.failed(["a"], "down")
    assert status.written == [("a", "down"), ("a", "down")]
