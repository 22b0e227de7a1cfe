"""Kopf in its thread: where its events arrive, how it ends, and what is logged of its loop."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from kopf._cogs.aiokits.aiotasks import create_guarded_task

from gpuid_operator.api.meta import POLICY_PLURAL, QUARANTINE_PLURAL
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.operator import kopf_thread
from gpuid_operator.operator.kopf_private import kopf
from gpuid_operator.operator.kopf_thread import KopfThread, log_loop_error
from tests.support.kopf_api import KopfApi


async def stubborn() -> AsyncIterator[int]:
    """As Kopf's stream of events, when it is closed while it waits."""
    with suppress(GeneratorExit):
        yield 1
    yield 2


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_generator_that_is_closed_at_the_end_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events = stubborn()

    async def watch() -> None:
        asyncio.get_running_loop().set_exception_handler(log_loop_error)
        assert await anext(events) == 1

    asyncio.run(watch())
    assert errors(caplog) == []


async def fails() -> None:
    raise ValueError("no such kind")


def report_unawaited(task_of: Callable[[], asyncio.Task[Any]]) -> None:
    """Run a task that fails, and await it as little as Kopf does when it is cancelled."""

    async def watch() -> None:
        asyncio.get_running_loop().set_exception_handler(log_loop_error)
        task = task_of()
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(watch())


def test_a_failure_that_kopf_logged_is_not_logged_again(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("kopf")
    report_unawaited(lambda: create_guarded_task(fails(), "watcher of x", logger=logger))
    assert errors(caplog) == ["Watcher of x has failed: no such kind"]


def test_a_failure_of_another_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    report_unawaited(lambda: asyncio.create_task(fails()))
    (message,) = errors(caplog)
    assert message.startswith("Task exception was never retrieved")


def test_other_errors_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def watch() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(log_loop_error)

        def fail() -> None:
            raise ValueError

        loop.call_soon(fail)
        await asyncio.sleep(0)

    asyncio.run(watch())
    (message,) = errors(caplog)
    assert message.startswith("Exception in callback")


@pytest.fixture
def sessions_left_open() -> Iterator[None]:
    """The end of the thread cancels Kopf in the middle of its requests, and leaves its sessions to
    the garbage collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


class Received:
    """Keeps the events, and the thread in which they came."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[PodSelector | None, str, bool]] = asyncio.Queue()
        self.threads: set[str] = set()

    async def next(self) -> tuple[PodSelector | None, str, bool]:
        async with asyncio.timeout(20):
            return await self.events.get()

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None:
        self.threads.add(threading.current_thread().name)
        self.events.put_nowait((source, body["metadata"]["name"], deleted))

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        self.threads.add(threading.current_thread().name)
        self.events.put_nowait((None, body["metadata"]["name"], deleted))

    def quarantine_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        self.policy_event(body, deleted=deleted)


def listed(name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": "gpu-operator", "uid": name, "resourceVersion": "1"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta}


@pytest.mark.usefixtures("sessions_left_open")
async def test_events_reach_the_loop_of_the_caller_until_it_stops_the_watch() -> None:
    sources = (PodSelector("gpu-operator", "app=plugin"), PodSelector("checks", "app=driver"))
    received, beats = Received(), asyncio.Event()
    api = KopfApi()
    api.lists["pods"].append(listed("a"))
    api.lists[POLICY_PLURAL].append(listed("fleet"))
    api.lists[QUARANTINE_PLURAL].append(listed("rma"))
    async with api.serve():
        thread = KopfThread(
            sources=sources,
            receiver=received,
            credentials=lambda: api.credentials,
            beat=beats.set,
            quarantines=received,
        )
        assert thread.tasks == 0
        running = asyncio.create_task(thread.run())
        first = [await received.next() for _ in range(4)]
        await beats.wait()
        assert thread.tasks > len(sources)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        assert thread.tasks == 0
    # The fake server has the same pods in each namespace; only one operator watches the rest.
    pods = [(source, "a", False) for source in sources]
    others = [(None, "fleet", False), (None, "rma", False)]
    assert sorted(first, key=str) == sorted([*pods, *others], key=str)
    assert received.threads == {threading.current_thread().name}
    assert "kopf" not in {thread.name for thread in threading.enumerate()}
    for plural in (POLICY_PLURAL, QUARANTINE_PLURAL):
        lists = [one for one in api.requests if one.path.endswith(plural)]
        assert len([one for one in lists if "watch" not in one.query]) == 1


@pytest.mark.usefixtures("sessions_left_open")
async def test_policies_are_watched_where_no_pods_may_be() -> None:
    received, beats = Received(), asyncio.Event()
    api = KopfApi()
    api.lists["pods"].append(listed("a"))
    api.lists[POLICY_PLURAL].append(listed("fleet"))
    async with api.serve():
        thread = KopfThread(
            sources=(),
            receiver=received,
            credentials=lambda: api.credentials,
            beat=beats.set,
            quarantines=received,
        )
        running = asyncio.create_task(thread.run())
        assert await received.next() == (None, "fleet", False)
        await beats.wait()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert not [one for one in api.requests if one.path.endswith("/pods")]


@pytest.mark.usefixtures("sessions_left_open")
async def test_quarantines_that_are_not_served_are_neither_watched_nor_missed() -> None:
    received, beats = Received(), asyncio.Event()
    api = KopfApi()
    api.lists[POLICY_PLURAL].append(listed("fleet"))
    del api.lists[QUARANTINE_PLURAL]
    async with api.serve():
        thread = KopfThread(
            sources=(PodSelector("gpu-operator", "app=plugin"),),
            receiver=received,
            credentials=lambda: api.credentials,
            beat=beats.set,
        )
        running = asyncio.create_task(thread.run())
        assert await received.next() == (None, "fleet", False)
        await beats.wait()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    assert [one for one in api.requests if one.path.endswith(QUARANTINE_PLURAL)] == []


async def test_a_watch_that_is_stopped_before_its_thread_has_begun_ends_at_once() -> None:
    thread = KopfThread(
        sources=(PodSelector("gpu-operator", "app=plugin"),),
        receiver=Received(),
        credentials=lambda: KopfApi().credentials,
        beat=lambda: None,
    )
    watch, stopped = thread._watch, threading.Event()

    async def late() -> None:
        stopped.wait(20)
        await watch()

    thread._watch = late  # type: ignore[method-assign]
    running = asyncio.create_task(thread.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    stopped.set()
    with suppress(asyncio.CancelledError):
        await running
    assert "kopf" not in {one.name for one in threading.enumerate()}


class LateThread(KopfThread):
    """Kopf's thread on a busy machine: it gets to run once `go` is set."""

    def __init__(self, *, beat: Callable[[], None]) -> None:
        self.go = threading.Event()
        source = PodSelector("gpu-operator", "app=plugin")
        credentials = KopfApi().credentials
        super().__init__(
            sources=(source,), receiver=Received(), credentials=lambda: credentials, beat=beat
        )

    def _main(self) -> None:
        self.go.wait()
        super()._main()


async def sleep_for_ever(**_: Any) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def idle_kopf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kopf watches nothing, until it is cancelled."""
    monkeypatch.setattr(kopf, "operator", sleep_for_ever)


@pytest.mark.usefixtures("idle_kopf")
async def test_a_thread_that_outlives_its_watch_reports_no_heartbeat_and_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kopf_thread, "_JOIN", 0.0)
    beats: list[int] = []
    thread = LateThread(beat=lambda: beats.append(1))
    running = asyncio.create_task(thread.run())
    await asyncio.sleep(0)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    [late] = [one for one in threading.enumerate() if one.name == "kopf"]
    thread.go.set()
    await asyncio.to_thread(late.join, 20)
    assert not late.is_alive()
    assert beats == []
