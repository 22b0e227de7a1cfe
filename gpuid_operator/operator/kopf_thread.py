"""Runs Kopf in a thread of its own.

When Kopf ends, it cancels every task that was created in its loop since it started; and it ends by
itself after a minute of failures. In a thread with its own loop it cancels only its own tasks, and
the process can start it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final

from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.kube.credentials import Credentials
from gpuid_operator.operator.handlers import EventReceiver, Memo, QuarantineReceiver, registry
from gpuid_operator.operator.kopf_private import (
    Identity,
    is_late_generator,
    is_logged_failure,
    kopf,
    watchers,
)
from gpuid_operator.operator.kopf_settings import kopf_settings
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_BEAT: Final = 5.0
_COMPLETE_WITHIN: Final = 60.0
"""Seconds that Kopf has to start all of its watchers."""
_END_WITHIN: Final = 2.0
_JOIN: Final = 5.0


class KopfThread:
    """Watches pods, policies and quarantines until it is stopped or Kopf gives up."""

    def __init__(
        self,
        *,
        sources: tuple[PodSelector, ...],
        receiver: EventReceiver,
        credentials: Callable[[], Credentials],
        beat: Callable[[], None],
        quarantines: QuarantineReceiver | None = None,
    ) -> None:
        """`credentials` returns the current ones, from any thread; `beat` is called in the loop of
        the caller while all watchers run; `quarantines` is None where the API server does not serve
        quarantines."""
        self._sources = sources
        self._receiver = receiver
        self._credentials = credentials
        self._beat = beat
        self._quarantines = quarantines
        self._home = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, name="kopf", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def tasks(self) -> int:
        """How many tasks Kopf has."""
        loop = self._loop
        return len(asyncio.all_tasks(loop)) if loop is not None and loop.is_running() else 0

    async def run(self) -> None:
        """Watch until Kopf ends, or this is cancelled."""
        self._thread.start()
        try:
            await self._ended.wait()
        finally:
            self._stopping.set()
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
            _log.warning("watch failed", error=str(error) or repr(error))
        finally:
            self._home.call_soon_threadsafe(self._ended.set)

    async def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(log_loop_error)
        self._task = asyncio.current_task()
        if self._stopping.is_set():
            return  # `run` was cancelled before it could see the task
        beating = asyncio.create_task(self._beat_while_complete())
        # Each source has its own selector, and a Kopf operator has one selector for all pods. One
        # without pods still watches policies.
        operators = [
            asyncio.create_task(self._operator(number, source))
            for number, source in enumerate(self._sources or [None])
        ]
        try:
            done, _ = await asyncio.wait([beating, *operators], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await _end_all()

    async def _operator(self, number: int, source: PodSelector | None) -> None:
        await kopf.operator(
            registry=registry(
                policies=number == 0,
                quarantines=number == 0 and self._quarantines is not None,
                pods=source is not None,
            ),
            settings=kopf_settings(source.selector if source else None),
            memo=Memo(source, self._receiver, self._home, self._credentials, self._quarantines),
            standalone=True,
            namespaces=[source.namespace if source else "default"],
            # Without it Kopf asks getpass, which fails for a uid without a passwd entry.
            identity=Identity(f"gpuid-operator-{number}"),
        )

    async def _beat_while_complete(self) -> None:
        """Report that the watch is alive, until it is stopped. Raises RuntimeError when Kopf lacks
        a watcher for a kind: once one has failed, Kopf may wait without end for the others."""
        loop = asyncio.get_running_loop()
        expected = len(self._sources) + 1 + (self._quarantines is not None)
        complete_by = loop.time() + _COMPLETE_WITHIN
        while not self._stopping.is_set():
            missing = expected - len(watchers())
            if missing <= 0:
                complete_by = 0.0
            elif loop.time() > complete_by:
                raise RuntimeError(f"Kopf has lost {missing} of {expected} watchers")
            self._home.call_soon_threadsafe(self._beat)
            await asyncio.sleep(_BEAT)


def log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error in Kopf's loop that no task awaits."""
    if is_late_generator(context):
        _log.debug("ignored generator that closed late", error=repr(context.get("exception")))
    elif is_logged_failure(context):
        _log.debug("ignored failure that Kopf logged", error=repr(context.get("exception")))
    else:
        loop.default_exception_handler(context)


async def _end_all() -> None:
    """End every other task of this loop.

    Watchers come first: a watcher whose cancellation comes together with that of its pause takes it
    for the pause, and goes on.
    """
    for tasks in (watchers(), asyncio.all_tasks() - {asyncio.current_task()}):
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_END_WITHIN)
