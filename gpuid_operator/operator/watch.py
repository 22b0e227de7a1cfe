"""Kopf as the source of events, in a thread of its own.

Kopf cancels, when it ends, every task that was created in its loop since it started, and it ends
by itself after a minute of failures. In a thread with its own loop it takes nothing along, and is
simply started again. Its handlers hand events over and do nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

from gpuid_operator.api.meta import GROUP, POLICY_PLURAL, VERSION
from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.credentials import Credentials
from gpuid_operator.operator.kopf_import import Identity, kopf
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

CREDENTIALS_AGE: Final = timedelta(minutes=10)
"""A bound service account token lives an hour; Kopf freezes what it was given."""

# Kopf warns that signals are ours to handle, as they are, and that it was cancelled, as it is meant
# to be; and tells of each renewal of its credentials.
logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
logging.getLogger("kopf._core.engines.activities").setLevel(logging.WARNING)
logging.getLogger("kopf.activities").setLevel(logging.WARNING)

_BEAT: Final = 5.0
_WHOLE_WITHIN: Final = 60.0
"""Seconds that Kopf has to begin all of its watches."""
_END_WITHIN: Final = 2.0
_JOIN: Final = 5.0


class Events(Protocol):
    """Who the events are for."""

    def pod_event(self, source: PodSelector, body: dict[str, Any], *, deleted: bool) -> None: ...
    def policy_event(self, body: dict[str, Any], *, deleted: bool) -> None: ...


class Watch:
    """Watches pods and policies until it is stopped or Kopf gives up."""

    def __init__(
        self,
        *,
        sources: tuple[PodSelector, ...],
        events: Events,
        credentials: Callable[[], Credentials],
        beat: Callable[[], None],
    ) -> None:
        """`credentials` gives those of the moment, from any thread; `beat` is called in the loop of
        the caller while the watch lives."""
        self._sources = sources
        self._events = events
        self._credentials = credentials
        self._beat = beat
        self._home = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="kopf", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Watch until Kopf ends, or this is cancelled."""
        self._thread.start()
        try:
            await self._ended.wait()
        finally:
            if self._loop is not None and self._task is not None:
                with contextlib.suppress(RuntimeError):  # it has ended by itself
                    self._loop.call_soon_threadsafe(self._task.cancel)
            await asyncio.to_thread(self._thread.join, _JOIN)

    def _main(self) -> None:
        try:
            asyncio.run(self._watch())
        except asyncio.CancelledError:
            pass
        except Exception as error:
            _log.warning("the watch ended", error=str(error) or repr(error))
        finally:
            self._home.call_soon_threadsafe(self._ended.set)

    async def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(tell_fault)
        self._task = asyncio.current_task()
        beating = asyncio.create_task(self._beat_on())
        # Each source has its own selector, and Kopf one selector for all pods that it watches.
        operators = [
            asyncio.create_task(
                kopf.operator(
                    registry=self._registry(source, first=number == 0),
                    settings=kopf_settings(source.selector),
                    standalone=True,
                    namespaces=[source.namespace],
                    # Without it Kopf asks getpass, which fails for a uid without a passwd entry.
                    identity=Identity(f"gpuid-operator-{number}"),
                )
            )
            for number, source in enumerate(self._sources)
        ]
        try:
            done, _ = await asyncio.wait([beating, *operators], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _end_all()

    async def _beat_on(self) -> None:
        """Say that the watch lives. Raises RuntimeError when Kopf lacks a watcher for a kind: once
        one has failed, Kopf may wait for ever for the others to end."""
        loop = asyncio.get_running_loop()
        expected = len(self._sources) + 1
        whole_by = loop.time() + _WHOLE_WITHIN
        while True:
            missing = expected - len(_watchers())
            if missing <= 0:
                whole_by = 0.0
            elif loop.time() > whole_by:
                raise RuntimeError(f"Kopf has lost {missing} of {expected} watches")
            self._home.call_soon_threadsafe(self._beat)
            await asyncio.sleep(_BEAT)

    def _registry(self, source: PodSelector, *, first: bool) -> kopf.OperatorRegistry:
        """The handlers of one Kopf operator; the first also watches policies."""
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return connection(self._credentials())

        @kopf.on.event("v1", "pods", registry=registry)
        async def pod(event: Any, **_: Any) -> None:
            body, gone = event["object"], event["type"] == "DELETED"
            self._home.call_soon_threadsafe(
                functools.partial(self._events.pod_event, source, body, deleted=gone)
            )

        if first:

            @kopf.on.event(GROUP, VERSION, POLICY_PLURAL, registry=registry)
            async def policy(event: Any, **_: Any) -> None:
                body, gone = event["object"], event["type"] == "DELETED"
                self._home.call_soon_threadsafe(
                    functools.partial(self._events.policy_event, body, deleted=gone)
                )

        return registry


def tell_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what went wrong in Kopf's loop where nobody waits for it.

    Not that one of its generators of events did not end at once when it was closed: they are closed
    when the watch has ended, in the middle of whatever they do.
    """
    if "asyncgen" in context:
        _log.debug("a generator of Kopf did not end at once", error=repr(context.get("exception")))
    else:
        loop.default_exception_handler(context)


def _watchers() -> set[asyncio.Task[Any]]:
    """Kopf's tasks that watch one kind each."""
    return {task for task in asyncio.all_tasks() if task.get_name().startswith("watcher for ")}


async def _end_all() -> None:
    """End every other task of this loop.

    Watchers come first: one whose cancellation comes together with that of its pause takes it for
    a pause, and goes on.
    """
    for tasks in (_watchers(), asyncio.all_tasks() - {asyncio.current_task()}):
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_END_WITHIN)


def kopf_settings(selector: str) -> kopf.OperatorSettings:
    """Kopf's settings: only watching, in pages, with time-outs, and nothing written anywhere."""
    settings = kopf.OperatorSettings()
    settings.watching.label_selectors["v1", "pods"] = selector
    settings.watching.chunk_size = 250
    settings.watching.server_timeout = 300
    settings.watching.connect_timeout = 10
    settings.networking.request_timeout = 30
    # It is started anew after that, and meanwhile not ready; its own minute would hide an outage.
    settings.networking.error_backoffs = (1, 1, 2, 3, 5)
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.queueing.idle_timeout = 1.0
    settings.persistence.finalizer = f"{GROUP}/none"
    settings.persistence.diffbase_storage = _NoDiffs()
    return settings


class _NoDiffs(kopf.DiffBaseStorage):
    """Kopf copies each object of each event whole to tell what changed in it. Nobody asks."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        raise AssertionError("nothing of Kopf is stored anywhere")


def connection(credentials: Credentials) -> kopf.ConnectionInfo:
    """Our credentials as Kopf takes them; it asks again when they expire."""
    scheme, _, token = (credentials.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_path,
        insecure=credentials.insecure,
        scheme=scheme or None,
        token=token or None,
        certificate_path=credentials.certificate_path,
        private_key_path=credentials.private_key_path,
        proxy_url=credentials.proxy,
        expiration=datetime.now(UTC) + CREDENTIALS_AGE,
    )
