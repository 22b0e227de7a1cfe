"""The loop of one sink when the sink accepts nothing: pauses, reports and log lines."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from gpuid_operator.api.sinks import SecretKeyRef
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.plan.delivery_retry import REPORTED_AFTER
from gpuid_operator.sinks.base import Refused, SinkError, Unavailable
from tests.support.sink_worker import Harness, failing


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jitter is always half of what it may be."""
    monkeypatch.setattr("random.random", lambda: 0.5)


async def test_a_batch_that_failed_is_sent_again_unchanged() -> None:
    """A sink that accepted it, and whose answer was lost, recognizes it by its key."""
    harness = Harness({"a": [1]})
    harness.answer = failing([Unavailable("down")] * 12)
    first = harness.ids("a")
    harness.during[2] = lambda: harness.join("b", [1])
    await harness.until(harness.is_done, step=10)
    assert [ids for _, ids in harness.sent] == [first] * 13 + [["b.1.0.0"]]


@pytest.mark.usefixtures("half")
async def test_the_back_off_doubles_to_ten_minutes_with_full_jitter() -> None:
    harness = Harness({"a": [1]})
    harness.answer = failing([Unavailable("down")] * 13)
    await harness.until(harness.is_done, step=10)
    pauses = [round(b - a, 3) for a, b in pairwise(harness.times)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


@pytest.mark.usefixtures("half")
async def test_a_delivery_resets_the_back_off() -> None:
    harness = Harness({"a": [1], "b": [1]}, max_records=1)
    harness.answer = failing([*[Unavailable("down")] * 4, None, Unavailable("down")])
    await harness.until(harness.is_done)
    assert harness.times[-1] - harness.times[-2] == pytest.approx(0.5)


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (Unavailable("busy", retry_after=90), 90),
        (Unavailable("busy", retry_after=10**9), 6 * 3600),
        (Refused("no", retry_after=900), 900),
        (Refused("no", retry_after=1), 450),
    ],
    ids=["longer", "too long", "refused, longer", "refused, shorter"],
)
async def test_retry_after_is_honoured(error: SinkError, pause: float) -> None:
    harness = Harness({"a": [1]})
    harness.answer = failing([error])
    await harness.until(harness.is_done, step=60)
    first, second = harness.times
    assert second - first == pytest.approx(pause)


@pytest.mark.parametrize("after", [0.0, 100.0], ids=["there already", "later"])
async def test_a_changed_secret_ends_the_wait(after: float) -> None:
    harness = Harness({"a": [1]})

    def answer(_: list[str]) -> Exception | None:
        if len(harness.sent) > 1:
            return None
        if after:
            loop = asyncio.get_running_loop()
            loop.call_later(after, lambda: setattr(harness, "secret", "new"))
        else:
            harness.secret = "new"
        return Refused("401")

    await harness.secrets.get(SecretKeyRef(name="cmdb", key="token"), host=None)
    harness.answer = answer
    await harness.until(harness.is_done)
    first, second = harness.times
    most = after + DEFAULT_TIMINGS.sink_secret_check.total_seconds() if after else 0.0
    assert second - first <= most


async def test_an_unexpected_error_of_the_sink_is_temporary(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its text is not repeated: it may hold a secret."""
    harness = Harness({"a": [1]})
    harness.answer = failing([KeyError("dsn=secret")] * REPORTED_AFTER)
    await harness.until(harness.is_done)
    assert harness.errors == [("a", "Unavailable: KeyError: see the operator's log")]
    assert len([one for one in caplog.records if one.exc_info]) == REPORTED_AFTER


async def test_an_outage_is_reported_once_and_again_when_its_error_changes() -> None:
    """Ids and times in an answer do not count as a change."""
    harness = Harness({"a": [1], "b": [1]})
    words = [f"503 busy, request {number:08x}-77" for number in range(20)]
    harness.answer = failing([*map(Unavailable, words), *[Unavailable("504 gone")] * 2])
    await harness.until(harness.is_done, step=10)
    reported = [error for node, error in harness.errors if node == "a"]
    assert reported == [f"Unavailable: {words[2]}", "Unavailable: 504 gone"]


async def test_two_failures_in_a_row_are_not_reported() -> None:
    harness = Harness({"a": [1]})
    harness.answer = failing([Unavailable("down")] * (REPORTED_AFTER - 1))
    await harness.until(harness.is_done)
    assert harness.errors == []


async def test_a_node_that_joins_an_outage_gets_its_error_at_once() -> None:
    harness = Harness({"a": [1]})
    harness.answer = failing([Refused("401")])

    def joins() -> bool:
        if harness.errors == [("a", "Refused: 401")]:
            harness.join("b", [1])
            assert harness.errors[1:] == [("b", "Refused: 401")]
        return harness.is_done()

    await harness.until(joins)
    assert [node for node, _ in harness.errors] == ["a", "b"]


async def test_nodes_that_wait_for_the_next_batch_get_the_error() -> None:
    harness = Harness({"a": [1], "b": [1]}, max_records=1)
    harness.answer = failing([Refused("401")])
    await harness.until(harness.is_done)
    assert sorted(harness.errors) == [("a", "Refused: 401"), ("b", "Refused: 401")]


async def test_a_node_that_joins_after_an_outage_gets_no_error() -> None:
    harness = Harness({"a": [1]})
    harness.answer = failing([Refused("401")])
    await harness.until(harness.is_done)
    harness.join("b", [1])
    assert harness.errors == [("a", "Refused: 401")]


async def test_a_refusal_is_logged_each_time_and_an_outage_each_tenth_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = Harness({"a": [1]})
    harness.answer = failing([*[Unavailable("down")] * 12, *[Refused("no", detail="SQL")] * 2])
    await harness.until(harness.is_done, step=10)
    lines = [one.__dict__["fields"] for one in caplog.records]
    assert [(line["failures"], line["error"]) for line in lines] == [
        (1, "Unavailable: down"),
        (10, "Unavailable: down"),
        (13, "Refused: no"),
        (14, "Refused: no"),
    ]
    assert [line.get("detail") for line in lines] == [None, None, "SQL", "SQL"]
