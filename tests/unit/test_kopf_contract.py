"""What operator/kopf_private.py relies on in Kopf. A failure here comes from an upgrade of Kopf:
adapt kopf_private.py, then this test."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from gpuid_operator.api.meta import POLICY_PLURAL
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.operator import kopf_private
from gpuid_operator.operator.handlers import Memo, registry
from gpuid_operator.operator.kopf_private import Identity, kopf
from gpuid_operator.operator.kopf_settings import kopf_settings
from tests.support.kopf_api import KopfApi

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "plugin", "namespace": "gpu-operator", "uid": "u", "resourceVersion": "2"},
}
SOURCE = PodSelector("gpu-operator", "app=plugin")
NAMED_LOGGERS = (
    kopf_private.RUNNING_LOGGER,
    kopf_private.ACTIVITIES_LOGGERS[0],
    kopf_private.OBJECTS_LOGGER,
)


class Received:
    """Keeps the events."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    async def next(self) -> tuple[str, bool]:
        """Name of the object, and whether it was deleted."""
        async with asyncio.timeout(20):
            return await self.events.get()

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None:
        self.events.put_nowait((body["metadata"]["name"], deleted))

    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None:
        self.events.put_nowait((body["metadata"]["name"], deleted))


@pytest.fixture
def kopf_logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Captures all that Kopf logs, whatever the levels of its loggers."""
    names = (*NAMED_LOGGERS, *kopf_private.ACTIVITIES_LOGGERS)
    levels = {name: logging.getLogger(name).level for name in names}
    for name in levels:
        logging.getLogger(name).setLevel(logging.NOTSET)
    with caplog.at_level(logging.INFO):
        yield caplog
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@asynccontextmanager
async def running(api: KopfApi) -> AsyncIterator[Received]:
    """Kopf with our handlers in this test's loop."""
    received = Received()
    memo = Memo(SOURCE, received, asyncio.get_running_loop(), lambda: api.credentials)
    operator = asyncio.create_task(
        kopf.operator(
            registry=registry(policies=True),
            settings=kopf_settings(SOURCE.selector),
            memo=memo,
            standalone=True,
            namespaces=[SOURCE.namespace],
            identity=Identity("contract"),
        )
    )
    try:
        yield received
    finally:
        operator.cancel()
        with suppress(asyncio.CancelledError):
            await operator


async def until(what: str, holds: Callable[[], bool]) -> None:
    """Wait until it holds; the failure says `what` Kopf should do."""
    try:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110 - Kopf sets no event
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(what)


async def test_each_watcher_is_a_task_with_the_known_name() -> None:
    async with KopfApi().serve() as api, running(api):
        await until(
            f"Kopf has no tasks named {kopf_private.WATCHER_PREFIX!r} any more, one per kind:"
            f" {sorted(task.get_name() for task in asyncio.all_tasks())}",
            lambda: len(kopf_private.watchers()) == 2,
        )


def test_each_task_that_kopf_guards_has_a_logger() -> None:
    """So its error is logged, whether or not the task is awaited."""
    source = inspect.getsource(importlib.import_module("kopf._core.reactor.running"))
    guarded = source.split("create_guarded_task(")[1:]
    assert guarded and all("logger=logger" in one.partition("coro=")[0] for one in guarded)


def test_an_identity_is_a_string_that_the_operator_takes() -> None:
    assert Identity("x") == "x", "Kopf's Identity is no string any more"
    parameters = inspect.signature(kopf.operator).parameters
    assert "identity" in parameters, "kopf.operator takes no identity any more"


@pytest.mark.parametrize("name", NAMED_LOGGERS[:2])
def test_a_module_of_kopf_logs_under_its_name(name: str) -> None:
    try:
        module = importlib.import_module(name)
    except ImportError:
        pytest.fail(f"Kopf has no module {name} any more: its lines reach the log unfiltered")
    assert module.logger.name == name, f"the logger of {name} has another name"


async def test_the_loggers_of_logins_and_objects_have_the_known_names(
    kopf_logs: pytest.LogCaptureFixture,
) -> None:
    api = KopfApi()
    api.lists["pods"].append(POD)
    async with api.serve(), running(api) as received:
        assert await received.next() == ("plugin", False)
        for name in (*kopf_private.ACTIVITIES_LOGGERS, kopf_private.OBJECTS_LOGGER):
            await until(
                f"Kopf logs nothing under {name} any more:"
                f" {sorted({record.name for record in kopf_logs.records})}",
                lambda name=name: any(  # type: ignore[misc]
                    record.name.startswith(name) for record in kopf_logs.records
                ),
            )


async def test_a_line_about_an_object_carries_its_reference(
    kopf_logs: pytest.LogCaptureFixture,
) -> None:
    kopf_private.configure_loggers(debug=True)
    api = KopfApi()
    api.lists["pods"].append(POD)

    def fields() -> list[Any]:
        return [
            getattr(record, "fields", None)
            for record in kopf_logs.records
            if record.name == kopf_private.OBJECTS_LOGGER
        ]

    async with api.serve(), running(api):
        await until("Kopf logs nothing about an object any more", lambda: bool(fields()))
    assert fields()[0] == {
        "logger": "kopf.objects",
        "object": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "plugin",
            "namespace": "gpu-operator",
            "uid": "u",
        },
    }, "Kopf's lines about an object have no attribute k8s_ref of the known form any more"


@pytest.mark.parametrize(("debug", "expected"), [(False, logging.WARNING), (True, logging.INFO)])
def test_lines_about_each_event_appear_at_debug_only(debug: bool, expected: int) -> None:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    try:
        kopf_private.configure_loggers(debug=debug)
        assert logging.getLogger(kopf_private.OBJECTS_LOGGER).getEffectiveLevel() == expected
    finally:
        root.setLevel(before)
        kopf_private.configure_loggers(debug=False)


def test_kopf_is_imported_without_kubernetes_asyncio() -> None:
    program = (
        "import sys\n"
        "import gpuid_operator.operator.kopf_private\n"
        "import kopf\n"
        "print([name for name in sys.modules if name.startswith('kubernetes_asyncio')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), (
        f"Kopf no longer starts without kubernetes_asyncio, which takes 37 MB: {done.stderr}"
    )


async def test_handlers_hand_over_pods_and_policies_and_their_deletion() -> None:
    api = KopfApi()
    api.lists[POLICY_PLURAL].append(
        {
            "apiVersion": "gpuid.github.com/v1alpha1",
            "kind": "GPUInventoryPolicy",
            "metadata": {"name": "fleet", "uid": "p", "resourceVersion": "1"},
        }
    )
    async with api.serve(), running(api) as received:
        assert await received.next() == ("fleet", False)
        await until(
            "Kopf does not watch pods",
            lambda: any("watch" in one.query and "pods" in one.path for one in api.requests),
        )
        api.send("pods", "ADDED", POD)
        assert await received.next() == ("plugin", False)
        api.send("pods", "DELETED", POD)
        assert await received.next() == ("plugin", True)
    queries = [one.query for one in api.requests if one.path.endswith("/pods")]
    assert {query["labelSelector"] for query in queries} == {SOURCE.selector}
    assert {one.method for one in api.requests} == {"GET"}
