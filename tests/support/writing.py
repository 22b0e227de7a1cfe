"""A status writer on the fake API server, and decisions for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from gpuid_operator.api.inventory import InventoryState, InventoryStatus, NodeInfo, Source
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.engine.writing.status_writer import Decision, StatusWriter, StatusWritten
from gpuid_operator.plan.smi import parse
from gpuid_operator.plan.status import after_read
from gpuid_operator.plan.status_change import StatusChange, StatusContext
from tests.support import clock
from tests.support.engines import TARGET, builtin
from tests.support.kube import FakeKube
from tests.support.objects import CONTAINER, NAMESPACE, inventory_path


class Writing:
    """A status writer, its caches, and what it reported."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube = kube
        self.state = ClusterState(targets=[TARGET], builtin=builtin())
        self.inventories = self.state.inventories
        self.written: list[StatusWritten] = []
        self.gone: list[tuple[str, str]] = []
        self.status_writer = StatusWriter(
            kube,
            state=self.state,
            events=self,
            listeners=[self.written.append],
        )

    def load(self, name: str) -> None:
        """Store an inventory of the cluster in the cache."""
        self.inventory_changed(self.kube.objects[inventory_path(name)])

    def status(self, name: str) -> dict[str, Any]:
        """The status in the cluster."""
        status: dict[str, Any] = self.kube.objects[inventory_path(name)]["status"]
        return status

    def inventory_changed(self, body: dict[str, Any]) -> None:
        """See InventoryEvents."""
        try:
            self.inventories.put_object(body)
        except ValidationError:
            return

    def inventory_deleted(self, name: str, uid: str) -> None:
        """See InventoryEvents."""
        self.gone.append((name, uid))
        self.inventories.remove(name, uid=uid)


def setting(**fields: Any) -> Decision:
    """A decision that sets fields of the status."""

    def decide(status: InventoryStatus, context: StatusContext) -> StatusChange:
        update = {"state": InventoryState.PRESENT, **fields}
        return StatusChange(status.model_copy(update=update))

    return decide


def counting() -> tuple[Decision, Callable[[], int]]:
    """A decision that adds 1 to the GPU count, and the number of times that it was made."""
    decisions = 0

    def decide(status: InventoryStatus, context: StatusContext) -> StatusChange:
        nonlocal decisions
        decisions += 1
        count = (status.gpu_count or 0) + 1
        return setting(gpu_count=count)(status, context)

    return decide, lambda: decisions


def reading(xml: str, *, node: str = "n1") -> Decision:
    """The decision of a successful read with this output of nvidia-smi."""
    found = parse(xml.encode(), exit_code=0, stderr=b"")
    source = Source(
        namespace=NAMESPACE,
        pod=f"plugin-{node}",
        container=CONTAINER,
        container_id=f"containerd://plugin-{node}-1",
    )

    def decide(status: InventoryStatus, context: StatusContext) -> StatusChange:
        return after_read(
            status,
            found,
            source=source,
            node=NodeInfo(name=node, machine=f"i-{node}"),
            now=clock.now(),
            context=context,
        )

    return decide
