"""Deletes inventories of departed nodes; see plan/expiry.py for which."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, KubeError, NotFound
from gpuid_operator.kube.inventories import delete_inventory
from gpuid_operator.plan.expiry import MAX_DEPARTED, DepartedInventory, expired
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class InventoryExpiry:
    """Deletes only objects that the operator created, in the version that it knows."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        clock: Callable[[], datetime],
        keep: int = MAX_DEPARTED,
    ) -> None:
        """`keep` is the largest number of inventories of departed nodes."""
        self._client = client
        self._state = state
        self._clock = clock
        self._keep = keep

    async def run(self) -> list[str]:
        """Delete what has expired. Returns the names of the deleted inventories.

        An error of the API server is logged and ends the run; the next one continues.
        """
        found = {
            cached.name: cached
            for cached in self._state.inventories
            if cached.departed and cached.managed and self._is_gone(cached.name)
        }
        departed = map(self._departed, found.values())
        deleted: list[str] = []
        for name in expired(departed, now=self._clock(), keep=self._keep):
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
        return deleted

    def _is_gone(self, name: str) -> bool:
        view = self._state.view(name)
        return view.node is None and view.skip is None

    def _departed(self, cached: CachedInventory) -> DepartedInventory:
        policy = self._state.view(cached.name).policy
        pending = {cursor.sink: cursor.pending for cursor in cached.cursors}
        return DepartedInventory(
            name=cached.name,
            last_change=cached.last_change,
            retention=policy.retention,
            # A sink without a cursor has got nothing yet.
            delivered=all(pending.get((sink.name, sink.type.value)) == 0 for sink in policy.sinks),
        )

    async def _delete(self, cached: CachedInventory) -> None:
        await delete_inventory(
            self._client,
            name=cached.name,
            uid=cached.uid,
            resource_version=cached.resource_version,
        )
        self._state.inventories.remove(cached.name, uid=cached.uid)
