"""All that is known of one node, looked up once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gpuid_operator.engine.state.cached_inventory import CachedInventory
from gpuid_operator.engine.state.nodes import KnownNode
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.policy import EffectivePolicy
from gpuid_operator.plan.target import Target


class SkipReason(StrEnum):
    """Why a node is left alone: nothing is read, written or delivered."""

    INVALID_INVENTORY = "its GPUInventory cannot be understood"
    """Such as one that a later version of the operator wrote."""
    UNREADABLE_POLICY = "its policy cannot be understood"
    """Nobody knows what is in force, and the built-in policy would be a guess."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node at one moment. Take a new one after each await that may have changed it."""

    name: str
    inventory: CachedInventory | None
    node: KnownNode | None
    """None where the Node was not fetched yet, or is gone."""
    target: tuple[Target, TargetPod] | None
    """Where to read it; None where no target container runs."""
    policy: EffectivePolicy
    skip: SkipReason | None
    """Why it is left alone, if it is."""

    @property
    def suspended(self) -> bool:
        return self.policy.suspended

    @property
    def departed(self) -> bool:
        """Whether the inventory says that the node is gone."""
        return self.inventory is not None and self.inventory.departed

    @property
    def foreign_checks(self) -> frozenset[str]:
        """The names of the checks whose results another instance writes."""
        return self.inventory.foreign_checks if self.inventory else frozenset()
