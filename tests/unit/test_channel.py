"""The loop of one sink, with a sink and an outbox in memory and a clock that does not wait."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from gpuid_operator.api.record import Record
from gpuid_operator.api.sinks import SecretKeyRef
from gpuid_operator.engine import channel as channels
from gpuid_operator.engine.channel import Channel
from gpuid_operator.engine.parcel import Parcel, halves
from gpuid_operator.engine.secret_watch import WatchedSecrets
from gpuid_operator.sinks.base import RecordsRefused, Refused, SinkError, Unavailable
from gpuid_operator.telemetry.metrics import Metrics


class _Jumping(selectors.DefaultSelector):
    """Where the loop would wait for a time, the time has come."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.jumping = _Jumping()
        super().__init__(self.jumping)

    def time(self) -> float:
        return self.jumping.now


def run(work: Awaitable[None]) -> None:
    async def main() -> None:
        await work

    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(main())


def record(node: str, sequence: int, part: int = 0) -> Record:
    return Record(
        id=f"{node}.{sequence}.0.{part}",
        event="GPUAdded",
        cluster="prod",
        node=node,
        machine="i-1",
        source="ns/pod",
        chassis="unknown",
        gpu="1",
        time=datetime(2026, 6, 7, tzinfo=UTC),
        sequence=sequence,
    )


class World:
    """Nodes with entries of some records each, and a sink that answers as the test says."""

    def __init__(self, entries: dict[str, list[int]], **options: Any) -> None:
        """`entries`: by node, how many records each of its entries has."""
        self.entries = entries
        self.cursors: dict[str, int] = {}
        self.errors: list[tuple[str, str]] = []
        self.served = set(entries)
        self.sent: list[tuple[float, list[str]]] = []
        self.taken: list[str] = []
        self.answer: Callable[[list[str]], Exception | None] = lambda _: None
        self.secret = "old"
        self.closed = False
        self.secrets = WatchedSecrets(self)
        self.channel = Channel(
            "cmdb",
            self,
            outbox=self,
            secrets=self.secrets,
            max_records=options.pop("max_records", 500),
            max_wait=timedelta(seconds=1),
            metrics=Metrics(),
        )

    # The sink

    async def send(self, records: Sequence[Record]) -> None:
        ids = [one.id for one in records]
        self.sent.append((asyncio.get_running_loop().time(), ids))
        error = self.answer(ids)
        if error is not None:
            raise error
        self.taken += ids

    async def close(self) -> None:
        self.closed = True

    # The outbox

    def parcels(self, node: str, *, after: tuple[str, int] | None) -> list[Parcel]:
        start = max(self.cursors.get(node, 0), after[1] if after else 0)
        return [
            Parcel(node, node, number, tuple(record(node, number, n) for n in range(count)))
            for number, count in enumerate(self.entries[node], 1)
            if number > start
        ]

    def serves(self, parcel: Parcel) -> bool:
        return parcel.node in self.served

    def delivered(self, node: str, *, uid: str, upto: int) -> None:
        self.cursors[node] = max(upto, self.cursors.get(node, 0))

    def failed(self, node: str, *, error: str) -> None:
        self.errors.append((node, error))

    # The secrets

    async def get(self, ref: object, *, host: str | None) -> str:
        return self.secret

    async def get_all(self, ref: object, *, host: str | None) -> dict[str, str]:
        return {"key": self.secret}

    def invalidate(self) -> None:
        """Nothing is cached."""

    def ids(self, *nodes: str) -> list[str]:
        return [
            one.id
            for node in nodes
            for parcel in self.parcels(node, after=None)
            for one in parcel.records
        ]

    async def until(self, done: Callable[[], bool]) -> None:
        """Run the channel with all nodes until something is so."""
        for node in self.entries:
            self.channel.add(node)
        task = asyncio.create_task(self.channel.run())
        while not done():
            assert not task.done()
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert self.closed

    def is_done(self) -> bool:
        return self.cursors == {node: len(counts) for node, counts in self.entries.items()}


def test_a_batch_spans_nodes_and_has_its_size() -> None:
    world = World({"a": [1, 1, 1], "b": [3], "c": [1]}, max_records=4)
    wanted = world.ids("a", "b", "c")
    run(world.until(world.is_done))
    assert world.taken == wanted
    assert [len(ids) for _, ids in world.sent] == [3, 4]


def test_an_entry_larger_than_a_batch_is_sent_as_a_whole() -> None:
    world = World({"a": [1, 9]}, max_records=4)
    run(world.until(world.is_done))
    assert [len(ids) for _, ids in world.sent] == [1, 9]


def failing(errors: Sequence[SinkError]) -> Callable[[list[str]], Exception | None]:
    left = iter(errors)
    return lambda _: next(left, None)


def test_what_failed_is_sent_again_as_it_was() -> None:
    world = World({"a": [1]})
    world.answer = failing([Unavailable("down")] * 12)
    first = world.ids("a")

    def grows() -> bool:
        if len(world.sent) == 2 and len(world.entries) == 1:
            world.entries["b"] = [1]
            world.served.add("b")
            world.channel.add("b")
        return world.is_done()

    run(world.until(grows))
    assert [ids for _, ids in world.sent] == [first] * 13 + [["b.1.0.0"]]


def test_the_back_off_doubles_to_ten_minutes_with_full_jitter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.5)
    world = World({"a": [1]})
    world.answer = failing([Unavailable("down")] * 13)
    run(world.until(world.is_done))
    times = [time for time, _ in world.sent]
    pauses = [round(b - a, 3) for a, b in pairwise(times)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (Unavailable("busy", retry_after=90), 90),
        (Unavailable("busy", retry_after=10**9), 6 * 3600),
        (Refused("no", retry_after=900), 900),
        (Refused("no", retry_after=1), 450),
    ],
)
def test_retry_after_is_honoured(
    monkeypatch: pytest.MonkeyPatch, error: SinkError, pause: float
) -> None:
    monkeypatch.setattr("random.random", lambda: 0.5)
    world = World({"a": [1]})
    world.answer = failing([error])
    run(world.until(world.is_done))
    (first, _), (second, _) = world.sent
    assert second - first == pytest.approx(pause)


@pytest.mark.parametrize("after", [0.0, 100.0], ids=["there already", "later"])
def test_a_changed_secret_ends_the_wait(after: float) -> None:
    world = World({"a": [1]})

    def answer(_: list[str]) -> Exception | None:
        if len(world.sent) > 1:
            return None
        if after:
            loop = asyncio.get_running_loop()
            loop.call_later(after, lambda: setattr(world, "secret", "new"))
        else:
            world.secret = "new"
        return Refused("401")

    async def change() -> None:
        await world.secrets.get(SecretKeyRef(name="cmdb", key="token"), host=None)
        world.answer = answer
        await world.until(world.is_done)

    run(change())
    (first, _), (second, _) = world.sent
    most = after + channels.SECRETS_PAUSE.total_seconds() if after else 0.0
    assert second - first <= most


def test_a_fault_of_the_sink_is_temporary(caplog: pytest.LogCaptureFixture) -> None:
    world = World({"a": [1]})
    errors = iter([KeyError("dsn=secret")] * channels.TOLD_AFTER)
    world.answer = lambda _: next(errors, None)
    run(world.until(world.is_done))
    assert world.errors == [("a", "Unavailable: KeyError: see the operator's log")]
    assert len([one for one in caplog.records if "not foreseen" in one.message]) == 3


def test_a_node_that_cannot_be_read_holds_up_no_other() -> None:
    world = World({"a": [1], "b": [1]})
    parcels = world.parcels

    def read(node: str, *, after: tuple[str, int] | None) -> list[Parcel]:
        if node == "a":
            raise ValueError("not a status")
        return parcels(node, after=after)

    world.parcels = read  # type: ignore[method-assign]
    run(world.until(lambda: world.cursors == {"b": 1}))


def refusing(*poison: str) -> Callable[[list[str]], Exception | None]:
    return lambda ids: RecordsRefused("422") if {*poison} & {*ids} else None


def test_the_refused_record_stands_alone() -> None:
    """Of an entry with several records, too; what is before it is taken, and all other nodes'."""
    world = World({"a": [1, 1], "b": [1, 4, 1], "c": [2], "d": [1]})
    poison = "b.2.0.2"
    world.answer = refusing(poison)
    run(world.until(lambda: len(world.cursors) == 4))
    assert [poison] in [ids for _, ids in world.sent]
    assert world.cursors == {"a": 2, "b": 1, "c": 1, "d": 1}
    assert world.errors == [("b", "RecordRefused: 422")]
    assert "b.3.0.0" not in world.taken


def test_a_refused_record_is_tried_again_at_the_slow_end() -> None:
    world = World({"a": [1, 1], "b": [1]})
    refused: list[float] = []

    def answer(ids: list[str]) -> Exception | None:
        if "a.1.0.0" not in ids or len(refused) == 3:
            return None
        if ids == ["a.1.0.0"]:
            refused.append(asyncio.get_running_loop().time())
        return RecordsRefused("422")

    world.answer = answer
    run(world.until(world.is_done))
    assert all(b - a >= 300 for a, b in pairwise(refused))
    assert world.taken == ["b.1.0.0", "a.1.0.0", "a.2.0.0"]


def test_who_refuses_everything_is_not_asked_for_each_record() -> None:
    world = World({f"n{number}": [1] for number in range(100)})
    world.answer = lambda _: RecordsRefused("400")
    run(world.until(lambda: len(world.errors) >= 100))
    began = world.sent[0][0]
    assert sum(time == began for time, _ in world.sent) < 30


def test_an_outage_is_told_once_and_again_when_it_is_another() -> None:
    """Ids and times in an answer do not make it another: a fleet is not written for them."""
    world = World({"a": [1], "b": [1]})
    words = [f"503 busy, request {number:08x}-77" for number in range(20)]
    world.answer = failing([*map(Unavailable, words), *[Unavailable("504 gone")] * 2])
    run(world.until(world.is_done))
    told = [error for node, error in world.errors if node == "a"]
    assert told == [f"Unavailable: {words[2]}", "Unavailable: 504 gone"]


def test_what_gave_way_meanwhile_is_not_sent() -> None:
    world = World({"a": [1, 1, 1]})
    world.answer = failing([Unavailable("down")] * 2)

    def drops() -> bool:
        if len(world.sent) == 2:
            world.channel.revise("a", {3})
        return world.is_done()

    run(world.until(drops))
    assert [len(ids) for _, ids in world.sent] == [3, 3, 1]


def test_a_node_that_is_not_the_sinks_any_more_gets_nothing() -> None:
    world = World({"a": [1], "b": [1]})
    world.answer = failing([Unavailable("down")] * 2)

    def leaves() -> bool:
        if len(world.sent) == 2:
            world.served.discard("a")
        return "b" in world.cursors

    run(world.until(leaves))
    assert world.taken == ["b.1.0.0"]


def test_a_send_ends_before_the_channel_does() -> None:
    world = World({"a": [1]})

    async def stop() -> None:
        go_on = asyncio.Event()
        send = world.send

        async def slowly(records: Sequence[Record]) -> None:
            await go_on.wait()
            await send(records)

        world.send = slowly  # type: ignore[method-assign]
        world.channel.add("a")
        task = asyncio.create_task(world.channel.run())
        await asyncio.sleep(5)
        assert world.channel.stop()
        go_on.set()
        await task
        assert world.is_done()
        assert not world.channel.stop()

    run(stop())


def test_halves_of_a_record_are_none() -> None:
    parcel = Parcel("a", "a", 1, (record("a", 1, 0), record("a", 1, 1), record("a", 1, 2)))
    parts = halves([parcel])
    assert parts is not None
    (first,), (second,) = parts
    assert (len(first.records), first.is_end) == (1, False)
    assert (len(second.records), second.is_end) == (2, True)
    assert halves([first]) is None
