"""Lists the whole cluster: at the start, and every ten minutes for changes without an event.

A watch never reports an object that vanished while the watch was not open.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from gpuid_operator.engine.reconcile.inventory_list import InventoryList
from gpuid_operator.engine.reconcile.node_list import NodeList
from gpuid_operator.engine.reconcile.target_pods import TargetPods
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.state.inventory_events import InventoryEvents
from gpuid_operator.engine.state.resource_version import newest
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import ListExpired
from gpuid_operator.kube.policies import list_policies
from gpuid_operator.plan.no_target import nothing_to_read
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_ATTEMPTS: Final = 3


class Resync:
    """Lists policies, quarantines, ResourceSlices, pods, nodes and inventories into the cluster
    state."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        events: InventoryEvents,
        target_pods: TargetPods,
        policies_changed: Callable[[], None],
        list_quarantines: Callable[[], Awaitable[None]],
        list_slices: Callable[[], Awaitable[None]],
    ) -> None:
        """`events` receives each inventory of a list; `policies_changed` is called when a list
        changes what is in force."""
        self._client = client
        self._state = state
        self._target_pods = target_pods
        self._policies_changed = policies_changed
        self._list_quarantines = list_quarantines
        self._list_slices = list_slices
        self._nothing = False
        self._nodes = NodeList(client, state=state)
        self._inventories = InventoryList(client, inventories=state.inventories, events=events)
        self.inventories_version: str | None = None
        """The resourceVersion of the last list of inventories, from which a watch can continue."""

    async def run(self) -> set[str]:
        """List everything. Returns the names of all nodes with GPUs, target pods or inventories.

        Pods are listed before nodes, so that the facts of a node are never older than the
        container that was seen there; quarantines before all GPUs that they may list. Raises
        KubeError.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._list_policies()
                await self._list_quarantines()
                await self._list_slices()
                await self._target_pods.list_all()
                await self._nodes.run()
                await self.list_inventories()
                break
            except ListExpired as error:
                if attempt == _ATTEMPTS:
                    raise
                _log.info("list expired; restarting it", error=error.message)
        names = self._state.node_names() | self._state.gpu_nodes()
        self._log_nothing_found(nothing=not names)
        return names

    def _log_nothing_found(self, *, nothing: bool) -> None:
        """Log a cluster without anything to read, in which no inventory could say why."""
        if nothing and not self._nothing:
            pods = self._state.pods
            advice = nothing_to_read(pods.targets, forbidden=pods.forbidden)
            _log.warning("found no target pod and no GPU node", advice=advice)
        self._nothing = nothing

    async def catch_up(self) -> set[str]:
        """List policies, quarantines and pods. Returns the names of the nodes that changed.

        Raises KubeError.
        """
        policies_changed = await self._list_policies()
        await self._list_quarantines()
        changed = await self._target_pods.list_all()
        return changed | self._state.node_names() if policies_changed else changed

    async def list_inventories(self) -> None:
        """List all inventories and report what changed. Raises KubeError."""
        self.inventories_version = await self._inventories.run()

    async def _list_policies(self) -> bool:
        since = newest(policy.resource_version for policy in self._state.policies)
        changed = self._state.policies.take_all(await list_policies(self._client, since=since))
        if changed:
            self._policies_changed()
        return changed
