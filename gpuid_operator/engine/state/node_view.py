"""One node, looked up once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.nodes import KnownNode
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.duplicates import Duplicate
from gpuid_operator.plan.policy import EffectivePolicy
from gpuid_operator.plan.quarantine import QuarantineIndex
from gpuid_operator.plan.resource_slices import PublishedGPUs, differences
from gpuid_operator.plan.status_change import StatusContext
from gpuid_operator.plan.target import Target


class SkipReason(StrEnum):
    """Why the operator skips a node: it reads, writes and delivers nothing."""

    INVALID_INVENTORY = "its GPUInventory cannot be parsed"
    """For example, a later version of the operator wrote it."""
    UNREADABLE_POLICY = "its policy cannot be parsed"
    """The operator cannot tell what is in force; the built-in policy would be a guess."""
    UNKNOWN_SINK = "a sink of its policy or GPUInventory has a type that this version does not know"
    """For example, after a rollback of the operator."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node at one moment. Take another view after each await."""

    name: str
    inventory: CachedInventory | None
    node: KnownNode | None
    """None where the Node was not fetched yet, or does not exist any more."""
    target: tuple[Target, TargetPod] | None
    """The container to read the node in; None where no target container runs."""
    policy: EffectivePolicy
    duplicates: tuple[Duplicate, ...] | None
    """Its GPUs that other present inventories list, too; None where they are not known yet."""
    skip: SkipReason | None
    """Why the operator skips the node; None where it does not."""
    quarantines: QuarantineIndex | None
    """All quarantines; None while they are not known."""
    quarantine_time: datetime | None = None
    """The time by which quarantines end; None for that of each change."""
    published: PublishedGPUs | None = None
    """What the ResourceSlices of the node say; None while that is not known."""

    @property
    def suspended(self) -> bool:
        """Whether reads, checks and label writes of the node are suspended."""
        return self.policy.suspended

    @property
    def departed(self) -> bool:
        """Whether the inventory says that the node is gone."""
        return self.inventory is not None and self.inventory.departed

    @property
    def open_request(self) -> str | None:
        """The token of `requestedAt` that no read has answered yet."""
        if self.inventory is None or not self.inventory.has_open_request:
            return None
        return self.inventory.request

    @property
    def differs_from_slices(self) -> bool:
        """Whether the ResourceSlices publish other GPUs than the last successful read listed."""
        if self.published is None or self.inventory is None or self.inventory.identifiers is None:
            return False
        return bool(differences(self.published.uuids, self.inventory.uuids))

    @property
    def foreign_checks(self) -> frozenset[str]:
        """The names of the checks whose results another instance writes."""
        return self.inventory.foreign_checks if self.inventory else frozenset()

    @property
    def status_context(self) -> StatusContext:
        """The input of a decision on the next status, besides the status itself."""
        # The API server gives a new object generation 1.
        generation = self.inventory.generation if self.inventory else 1
        return self.policy.status_context(
            generation,
            foreign=self.foreign_checks,
            quarantines=self.quarantines,
            quarantine_time=self.quarantine_time,
            duplicates=self.duplicates,
            published=self.published,
        )
