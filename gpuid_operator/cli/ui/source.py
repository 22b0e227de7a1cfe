"""Follows the objects of a cluster: a list in pages, then a watch; again after an error."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from gpuid_operator.api.meta import API_VERSION, INVENTORY_PLURAL, QUARANTINE_PLURAL
from gpuid_operator.cli.plugin_clusters import Cluster, explain
from gpuid_operator.cli.ui.state import NODES, QUARANTINES, FleetState
from gpuid_operator.kube.errors import (
    ApiUnreachable,
    Forbidden,
    Gone,
    KubeError,
    ListExpired,
    NotFound,
    ServerError,
)
from gpuid_operator.kube.paging import list_pages
from gpuid_operator.kube.watch import watch_objects

_PLURALS: Final = {NODES: INVENTORY_PLURAL, QUARANTINES: QUARANTINE_PLURAL}
_PAGE: Final = 100
_FIRST_DELAY: Final = 1.0
_LONGEST_DELAY: Final = 30.0


class _WatchInterrupted(Exception):  # noqa: N818 - not an error yet
    """A watch broke off, as happens when an API server restarts."""


async def follow(cluster: Cluster, state: FleetState) -> None:
    """Keep `state` in step with a cluster until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for kind in (NODES, QUARANTINES):
            tasks.create_task(_follow(cluster, kind, state))


async def _follow(cluster: Cluster, kind: str, state: FleetState) -> None:
    delay = _FIRST_DELAY
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        try:
            version = await _list(cluster, kind, state)
            await _watch(cluster, kind, state, version)
        except (Gone, ListExpired, _WatchInterrupted):
            pass  # The list that follows shows what is wrong, if anything is.
        except KubeError as error:
            state.set_cluster(cluster.name, kind, _word(error, kind), await _say(cluster, error))
        if loop.time() - began > _LONGEST_DELAY:
            delay = _FIRST_DELAY
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        delay = min(2 * delay, _LONGEST_DELAY)


async def _list(cluster: Cluster, kind: str, state: FleetState) -> str:
    """List, and return the version from which a watch continues."""
    names: set[str] = set()
    version = ""
    async for page in list_pages(cluster.client, _path(kind), limit=_PAGE):
        version = page["metadata"]["resourceVersion"]
        for body in page["items"]:
            names.add(body["metadata"]["name"])
            state.put(cluster.name, kind, body)
        # Browsers are served between the pages of a large fleet.
        await asyncio.sleep(0)
    state.keep_only(cluster.name, kind, names)
    state.set_cluster(cluster.name, kind, "ready")
    return version


async def _watch(cluster: Cluster, kind: str, state: FleetState, version: str) -> None:
    try:
        async for event, body in watch_objects(cluster.client, _path(kind), version=version):
            if event == "DELETED":
                state.remove(cluster.name, kind, body["metadata"]["name"])
            elif event in ("ADDED", "MODIFIED"):
                state.put(cluster.name, kind, body)
    except (ApiUnreachable, ServerError) as error:
        raise _WatchInterrupted from error


def _path(kind: str) -> str:
    return f"/apis/{API_VERSION}/{_PLURALS[kind]}"


def _word(error: KubeError, kind: str) -> str:
    match error:
        case Forbidden():
            return "forbidden"
        case NotFound() if kind == QUARANTINES:
            return "absent"  # an older version of the operator
    return "error"


async def _say(cluster: Cluster, error: KubeError) -> str:
    return (await explain(cluster, error)).removeprefix(f"context {cluster.name}: ")
