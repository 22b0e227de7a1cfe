"""The cluster as last seen: inventories, target pods, nodes, policies; and what applies where."""

from __future__ import annotations

from collections.abc import Sequence

from gpuid_operator.api.policy import Policy, PolicySpec
from gpuid_operator.engine.state.cached_inventory import NO_SPEC, CachedInventory
from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.engine.state.node_view import NodeView, SkipReason
from gpuid_operator.engine.state.nodes import NodeCache
from gpuid_operator.engine.state.pods import PodCache
from gpuid_operator.engine.state.policies import PolicyCache
from gpuid_operator.plan.policy import EffectivePolicy
from gpuid_operator.plan.target import Target


class ClusterState:
    """The four caches, and the questions that take more than one of them. No I/O."""

    def __init__(
        self,
        *,
        targets: Sequence[Target],
        builtin: PolicySpec,
        suspended: bool = False,
        checks_allowed: bool = False,
        inventories: InventoryCache | None = None,
    ) -> None:
        """See PolicyCache for `builtin`, `suspended` and `checks_allowed`."""
        self.inventories = InventoryCache() if inventories is None else inventories
        self.pods = PodCache(targets)
        self.nodes = NodeCache()
        self.policies = PolicyCache(
            builtin=builtin, suspended=suspended, checks_allowed=checks_allowed
        )

    def view(self, name: str) -> NodeView:
        """All that is known of a node."""
        inventory = self.inventories.get(name)
        return NodeView(
            name=name,
            inventory=inventory,
            node=self.nodes.get(name),
            target=self.pods.find(name),
            policy=self.effective_policy(name, inventory),
            skip=self.skip_reason(name),
        )

    def skip_reason(self, name: str) -> SkipReason | None:
        """Why a node must be left alone, if it must."""
        if self.inventories.is_invalid(name):
            return SkipReason.INVALID_INVENTORY
        inventory = self.inventories.get(name)
        if inventory is not None and self.policies.is_unreadable(inventory.policy):
            return SkipReason.UNREADABLE_POLICY
        return None

    def matching(self, name: str) -> list[Policy]:
        """The policies that claim a node, the effective one first."""
        node = self.nodes.get(name)
        return self.policies.matching(node.facts.labels) if node else []

    def effective_policy(self, name: str, inventory: CachedInventory | None) -> EffectivePolicy:
        """What is in force for a node. One that is gone stays under the policy it had last."""
        if name in self.nodes:
            policy = next(iter(self.matching(name)), None)
        else:
            policy = self.policies.get(inventory.policy) if inventory else None
        return self.policies.effective(policy, inventory.spec if inventory else NO_SPEC)

    def is_gpu_node(self, name: str) -> bool:
        """Whether the node has a target pod or GPU capacity."""
        known = self.nodes.get(name)
        return name in self.pods or (known is not None and bool(known.facts.gpu_capacity))

    def forget_node(self, name: str) -> None:
        """Drop a node that is gone."""
        self.nodes.remove(name)
        self.pods.forget(name)
