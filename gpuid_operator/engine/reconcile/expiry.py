"""Deletes inventories of departed nodes; see plan/expiry.py for which."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial

from gpuid_operator.api.values import format_time
from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.status_writer import StatusWriter
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, KubeError, NotFound
from gpuid_operator.kube.inventories import delete_inventory
from gpuid_operator.plan.expiry import (
    MAX_DEPARTED,
    DepartedInventory,
    expired,
    misdated,
    redated,
)
from gpuid_operator.plan.schedule import is_wrong
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class InventoryExpiry:
    """Deletes only objects that the operator created, in the version that it knows."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        status_writer: StatusWriter,
        clock: Callable[[], datetime],
        keep: int = MAX_DEPARTED,
    ) -> None:
        """`keep` is the largest number of inventories of departed nodes."""
        self._client = client
        self._state = state
        self._status_writer = status_writer
        self._clock = clock
        self._keep = keep

    async def run(self) -> list[str]:
        """Delete what has expired. Returns the names of the inventories that are gone by that.

        An error of the API server is logged and ends the run; the next one continues. While the
        clock of this process differs from the API server's, nothing has expired: a deletion cannot
        be undone.
        """
        found = {
            cached.name: cached
            for cached in self._state.inventories
            if cached.departed and cached.managed
        }
        departed = [one for one in map(self._departed, found.values()) if one is not None]
        now, server = self._clock(), self._client.server_time
        if departed and server is not None and is_wrong(now, server=server):
            _log.warning(
                "clock differs from the API server's; not deleting inventories of departed nodes",
                clock=format_time(now),
                api_server=format_time(server),
            )
            return []
        late = misdated(departed, now=now)
        for name in late:
            await self._redate(name, now)
        deleted: list[str] = []
        for name in expired(departed, now=now, keep=self._keep):
            if name in late:
                continue
            try:
                await self._delete(found[name])
            except (Conflict, NotFound):
                continue  # it changed meanwhile: the next run decides on the new version
            except KubeError as error:
                _log.warning(
                    "failed to delete inventory of departed node", node=name, error=str(error)
                )
                break
            deleted.append(name)
            _log.info("deleted inventory of departed node", node=name)
        # A node that returned meanwhile has another inventory.
        return [name for name in deleted if name not in self._state.inventories]

    def _departed(self, cached: CachedInventory) -> DepartedInventory | None:
        """What the decision depends on; None where the inventory must stay."""
        try:
            return self._describe(cached)
        except Exception:  # one inventory must not keep all others
            _log.exception("failed to look at inventory of departed node", node=cached.name)
            return None

    def _describe(self, cached: CachedInventory) -> DepartedInventory | None:
        view = self._state.view(cached.name)
        if view.node is not None or view.skip is not None:
            return None
        pending = {cursor.sink: cursor.pending for cursor in cached.cursors}
        return DepartedInventory(
            name=cached.name,
            last_change=cached.last_change,
            last_read=cached.last_read,
            retention=view.policy.retention,
            # A sink without a cursor has got nothing yet.
            delivered=all(pending.get((sink.name, sink.type)) == 0 for sink in view.policy.sinks),
        )

    async def _redate(self, name: str, now: datetime) -> None:
        try:
            await self._status_writer.write(name, partial(redated, now=now))
        except KubeError as error:
            _log.warning(
                "failed to correct time of departure; retrying", node=name, error=str(error)
            )

    async def _delete(self, cached: CachedInventory) -> None:
        await delete_inventory(
            self._client,
            name=cached.name,
            uid=cached.uid,
            resource_version=cached.resource_version,
        )
        self._state.inventories.remove(cached.name, uid=cached.uid)
