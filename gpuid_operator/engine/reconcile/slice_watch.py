"""Lists and watches the ResourceSlices of NVIDIA's DRA driver, where the API server serves them.

The API may be missing, as before Kubernetes 1.34, and so may the right to list them. Then they have
no effect, and the next resync looks again. A slice has 10 KB and more, so a resync lists only the
metadata of the slices, and fetches those that no event brought.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.resource_version import newer, newest
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Forbidden, Gone, KubeError, NotFound
from gpuid_operator.kube.resource_slices import (
    get_slice,
    served_collection,
    slice_pages,
    watch_slices,
)
from gpuid_operator.plan.schedule import backoff
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_MAX_BACKOFF: Final = timedelta(seconds=30)


class ResourceSliceWatch:
    """Keeps the cache of slices current, and enqueues the nodes whose slices say something else."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        enqueue: Callable[[Iterable[str]], None],
    ) -> None:
        self._client = client
        self._slices = state.slices
        self._enqueue = enqueue
        self._collection = ""
        """The path of the slices; empty while they cannot be listed."""
        self._version: str | None = None
        """Where the watch continues; None if the slices have to be listed first."""
        self._forbidden = False
        self._listed = asyncio.Event()
        """Set while the slices can be listed."""

    def loops(self) -> list[Loop]:
        return [self._follow]

    async def list_all(self) -> None:
        """List the slices, and find out whether they are served. Raises KubeError where that fails
        for another reason than a missing API or right."""
        try:
            collection = await served_collection(self._client)
            if collection is not None:
                await self._list(collection)
        except NotFound:
            collection = None
        except Forbidden as error:
            if not self._forbidden:
                _log.warning(
                    "failed to list ResourceSlices; they have no effect", error=error.message
                )
            self._forbidden = True
            collection = None
        else:
            self._forbidden = False
        self._collection = collection or ""
        if collection is None:
            self._listed.clear()
            self._version = None
            self._slices.forget_all()
        else:
            self._listed.set()

    async def _list(self, collection: str) -> None:
        changed: set[str] = set()
        names: set[str] = set()
        version = ""
        with self._slices.listing() as known:
            pages = slice_pages(
                self._client,
                collection,
                since=newest(known.values()),
                only_metadata=bool(known),
            )
            async for page in pages:
                for body in page["items"]:
                    names.add(body["metadata"]["name"])
                    changed |= await self._take(collection, body, known)
                version = page["metadata"]["resourceVersion"]
            changed |= self._slices.listed(names, known=known)
        if self._version is None or newer(version, than=self._version):
            self._version = version
        self._enqueue(changed)

    async def _take(self, collection: str, body: dict[str, Any], known: dict[str, str]) -> set[str]:
        """Store a listed slice; fetch it where only its metadata was listed, and is new."""
        meta = body["metadata"]
        if known.get(meta["name"]) == meta["resourceVersion"]:
            return set()
        if "spec" not in body:
            try:
                body = await get_slice(self._client, collection, meta["name"])
            except NotFound:
                return set()  # its deletion is an event of its own
        return self._slices.take(body, deleted=False)

    async def _follow(self) -> None:
        """Watch until cancelled."""
        failures = 0
        while True:
            await self._listed.wait()
            try:
                if self._version is None:
                    await self.list_all()
                    continue
                events = watch_slices(self._client, self._collection, version=self._version)
                async for kind, body in events:
                    failures = 0
                    self._version = body["metadata"]["resourceVersion"]
                    if kind != "BOOKMARK":
                        self._enqueue(self._slices.take(body, deleted=kind == "DELETED"))
            except Gone:
                self._version = None
            except KubeError as error:
                if isinstance(error, NotFound):
                    self._version = None
                failures += 1
                # API servers restart: a single interruption is normal.
                log = _log.warning if failures == 2 else _log.debug
                log("ResourceSlice watch disconnected", error=error.message)
                pause = backoff(failures, chance=chance(), most=_MAX_BACKOFF)
                await asyncio.sleep(pause.total_seconds())
