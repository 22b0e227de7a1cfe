"""Everything of Kopf that is not its public API. Other modules import `kopf` from here.

tests/unit/test_kopf_contract.py has one test per name, which fails when an upgrade of Kopf changes
what this file relies on.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from typing import Any, Final

# Kopf imports the model classes of kubernetes_asyncio, if that is installed, to recognise them as
# owners of objects. No handler of ours has owners, and the import takes 37 MB.
_LIBRARY: Final = "kubernetes_asyncio"

if _LIBRARY not in sys.modules:
    sys.modules[_LIBRARY] = None  # type: ignore[assignment] # makes the import fail
    import kopf
    from kopf._cogs.aiokits.aiotasks import guard
    from kopf._core.engines.peering import Identity

    del sys.modules[_LIBRARY]
else:
    import kopf
    from kopf._cogs.aiokits.aiotasks import guard
    from kopf._core.engines.peering import Identity

__all__ = [
    "Identity",
    "configure_loggers",
    "is_late_generator",
    "is_logged_failure",
    "kopf",
    "watchers",
]

WATCHER_PREFIX: Final = "watcher for "
"""Begins the name of each task of Kopf that watches one kind."""

RUNNING_LOGGER: Final = "kopf._core.reactor.running"
"""Warns that signals are not handled, which the process does, and that it was cancelled, which is
how the process ends it."""
ACTIVITIES_LOGGERS: Final = ("kopf._core.engines.activities", "kopf.activities")
"""Write an INFO line at each renewal of the credentials."""
OBJECTS_LOGGER: Final = "kopf.objects"
"""Writes an INFO line at each event, and names the object in the attribute `k8s_ref`."""


def watchers() -> set[asyncio.Task[Any]]:
    """Kopf's tasks in the running loop that watch one kind each."""
    return {task for task in asyncio.all_tasks() if task.get_name().startswith(WATCHER_PREFIX)}


def is_late_generator(context: Mapping[str, Any]) -> bool:
    """Whether an event loop reports an asynchronous generator that did not close at once. Those of
    Kopf are closed when the watch ends, in the middle of an await."""
    return "asyncgen" in context


def is_logged_failure(context: Mapping[str, Any]) -> bool:
    """Whether an event loop reports a failed task that nobody awaited, and whose error Kopf has
    logged. Kopf awaits none of its tasks any more if it is cancelled just then."""
    task = context.get("future")
    if not isinstance(task, asyncio.Task):
        return False
    return getattr(task.get_coro(), "cr_code", None) is guard.__code__


def configure_loggers(*, debug: bool) -> None:
    """Limit what Kopf logs to what a reader of the log can act on; `debug`: LOG_LEVEL is debug."""
    logging.getLogger(RUNNING_LOGGER).setLevel(logging.ERROR)
    for name in ACTIVITIES_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    objects = logging.getLogger(OBJECTS_LOGGER)
    objects.setLevel(logging.NOTSET if debug else logging.WARNING)
    objects.addFilter(_name_object)


def _name_object(record: logging.LogRecord) -> bool:
    """Turn Kopf's reference to an object into a field of the line."""
    reference = getattr(record, "k8s_ref", None)
    if isinstance(reference, Mapping):
        known = {name: value for name, value in reference.items() if value}
        record.fields = {"logger": record.name, "object": known}
    return True
