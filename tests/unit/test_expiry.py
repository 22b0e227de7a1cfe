"""Inventories of departed nodes expire by age and by number, but not before delivery."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from gpuid_operator.plan.expiry import DepartedInventory, expired, misdated, redated
from gpuid_operator.plan.schedule import CLOCK_SKEW
from gpuid_operator.plan.status_change import StatusContext
from tests.support.read_node import A, known

NOW = datetime(2026, 6, 7, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


def departed(
    name: str,
    *,
    age: timedelta | None,
    last_read: datetime | None = None,
    delivered: bool = True,
    retention: timedelta = DAY,
) -> DepartedInventory:
    return DepartedInventory(
        name=name,
        last_change=None if age is None else NOW - age,
        last_read=last_read,
        retention=retention,
        delivered=delivered,
    )


@pytest.mark.parametrize(
    ("delivered", "age", "keep", "deleted"),
    [
        (False, 2 * DAY, 1, False),
        (False, 2 * DAY, 0, False),
        (True, DAY / 2, 1, False),
        (True, DAY / 2, 0, True),
        (True, DAY, 1, True),
        (True, 2 * DAY, 0, True),
        (True, None, 1, False),
        (True, None, 0, True),
    ],
)
def test_the_table(delivered: bool, age: timedelta | None, keep: int, deleted: bool) -> None:
    found = expired([departed("n1", age=age, delivered=delivered)], now=NOW, keep=keep)
    assert found == (["n1"] if deleted else [])


def test_the_oldest_goes_first() -> None:
    inventories = [departed(f"n{days}", age=days * DAY / 10) for days in (3, 1, 2, 4)]
    assert expired(inventories, now=NOW, keep=1) == ["n4", "n3", "n2"]


def test_an_inventory_that_must_stay_takes_the_place_of_a_newer_one() -> None:
    inventories = [
        departed("old", age=DAY / 2, delivered=False),
        departed("middle", age=DAY / 3),
        departed("new", age=DAY / 4),
    ]
    assert expired(inventories, now=NOW, keep=1) == ["middle"]


def test_each_has_the_retention_of_its_own_policy() -> None:
    inventories = [
        departed("short", age=DAY, retention=DAY / 2),
        departed("long", age=DAY, retention=2 * DAY),
    ]
    assert expired(inventories, now=NOW) == ["short"]


@pytest.mark.parametrize(
    ("age", "last_read", "wrong"),
    [
        (DAY, NOW - 2 * DAY, False),
        (DAY, None, False),
        (DAY, NOW - DAY + CLOCK_SKEW, False),
        (DAY, NOW - DAY / 2, True),
        (-CLOCK_SKEW, NOW, False),
        (-DAY, NOW, True),
        (None, NOW, False),
        # The clock was wrong at the last read; the departure has the right time.
        (DAY, NOW + DAY, False),
    ],
)
def test_a_departure_in_the_future_or_before_the_last_read_has_a_wrong_time(
    age: timedelta | None, last_read: datetime | None, wrong: bool
) -> None:
    found = misdated([departed("n1", age=age, last_read=last_read)], now=NOW)
    assert found == (["n1"] if wrong else [])


def test_a_node_that_is_back_is_not_given_another_time() -> None:
    status = known(A).status
    assert redated(status, now=NOW, context=StatusContext()).status is status
