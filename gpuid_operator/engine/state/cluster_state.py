"""The last known state of the cluster, and what it means for each node."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from gpuid_operator.api.policy import Policy, PolicySpec
from gpuid_operator.engine.core.options import DEFAULT_TIMINGS
from gpuid_operator.engine.state.cached_inventory import NO_SPEC, CachedInventory
from gpuid_operator.engine.state.duplicates import DuplicateGPUs
from gpuid_operator.engine.state.inventory_cache import InventoryCache
from gpuid_operator.engine.state.node_view import NodeView, SkipReason
from gpuid_operator.engine.state.nodes import NodeCache
from gpuid_operator.engine.state.pods import PodCache
from gpuid_operator.engine.state.policies import PolicyCache
from gpuid_operator.engine.state.quarantines import QuarantineCache
from gpuid_operator.engine.state.resource_slices import ResourceSliceCache
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.policy import EffectivePolicy
from gpuid_operator.plan.target import Target


class ClusterState:
    """The caches of the cluster, and what follows from several of them. Its methods do no I/O."""

    def __init__(
        self,
        *,
        targets: Sequence[Target],
        builtin: PolicySpec,
        suspended: bool = False,
        checks_allowed: bool = False,
        inventories: InventoryCache | None = None,
        grace: timedelta = DEFAULT_TIMINGS.pod_grace,
    ) -> None:
        """See PolicyCache for `builtin`, `suspended` and `checks_allowed`, PodCache for `grace`."""
        self.inventories = InventoryCache() if inventories is None else inventories
        self.duplicates = DuplicateGPUs(self.inventories)
        self.pods = PodCache(targets, grace=grace)
        self.nodes = NodeCache()
        self.quarantines = QuarantineCache()
        self.slices = ResourceSliceCache()
        self.policies = PolicyCache(
            builtin=builtin, suspended=suspended, checks_allowed=checks_allowed
        )

    def view(self, name: str) -> NodeView:
        """Look a node up in all caches."""
        inventory = self.inventories.get(name)
        policy = self.effective_policy(name, inventory)
        return NodeView(
            name=name,
            inventory=inventory,
            node=self.nodes.get(name),
            target=self._target(name, inventory),
            policy=policy,
            duplicates=self.duplicates.of(name),
            skip=self._skip_reason(name, inventory, policy),
            quarantines=self.quarantines.index,
            quarantine_time=self.quarantines.time,
            published=self.slices.of(name),
        )

    def inventory_with_policy(self, name: str) -> tuple[CachedInventory, EffectivePolicy] | None:
        """The inventory of a node and the policy in force for it; None where there is no inventory,
        or the operator must skip the node. Costs a fraction of a view."""
        inventory = self.inventories.get(name)
        if inventory is None:
            return None
        policy = self.effective_policy(name, inventory)
        skip = self._skip_reason(name, inventory, policy)
        return None if skip is not None else (inventory, policy)

    def read_begins(self, name: str) -> None:
        """A read of this node begins now."""
        self.pods.memory.read_begins(name)
        self.duplicates.read_begins(name)
        self.slices.read_begins(name)

    def reread_in(self, view: NodeView) -> float | None:
        """Seconds until a read shall show whether the node has the GPUs that its ResourceSlices
        publish, and still has those that another inventory lists; None if there is no need for
        one."""
        if view.differs_from_slices and self.slices.changed_since_read(view.name):
            return 0.0
        return self.duplicates.reread_in(view.name)

    def target(self, name: str) -> tuple[Target, TargetPod] | None:
        """The container to read a node in; None where no target container runs."""
        return self._target(name, self.inventories.get(name))

    def target_for_read(self, name: str) -> tuple[Target, TargetPod] | None:
        """The target of a node for a read that is due."""
        return self._target(name, self.inventories.get(name), due=True)

    def _target(
        self, name: str, inventory: CachedInventory | None, *, due: bool = False
    ) -> tuple[Target, TargetPod] | None:
        # A departed node that returns is read like a new one.
        known = None if inventory is None or inventory.departed else inventory
        return self.pods.find(
            name,
            read_container=known.read_container if known else None,
            last_read=known.last_read if known else None,
            due=due,
        )

    def node_names(self) -> set[str]:
        """The names of all nodes that have a target pod or an inventory."""
        return self.pods.nodes() | {cached.name for cached in self.inventories}

    def skip_reason(self, name: str) -> SkipReason | None:
        """Why the operator must skip a node; None where it must not."""
        inventory = self.inventories.get(name)
        return self._skip_reason(name, inventory, self.effective_policy(name, inventory))

    def matching(self, name: str) -> list[Policy]:
        """The policies of the highest priority that match a node, the effective one first."""
        node = self.nodes.get(name)
        return self.policies.matching(node.facts.labels) if node else []

    def effective_policy(self, name: str, inventory: CachedInventory | None) -> EffectivePolicy:
        """Resolve what is in force for a node. A node that is gone keeps its last policy."""
        if name in self.nodes:
            policy = next(iter(self.matching(name)), None)
        else:
            policy = self.policies.get(inventory.policy) if inventory else None
        return self.policies.effective(policy, inventory.spec if inventory else NO_SPEC)

    def is_gpu_node(self, name: str) -> bool:
        """Whether the node is known to have GPUs, or has a pod of a target that is no preset: then
        the user says so. Some DaemonSets of presets also run on nodes without a GPU."""
        return self.pods.on_own_target(name) or self.has_gpus(name)

    def has_gpus(self, name: str) -> bool:
        """Whether the Node or its ResourceSlices say that the node has GPUs."""
        known, published = self.nodes.get(name), self.slices.of(name)
        return (known is not None and known.facts.has_gpus) or (
            published is not None and published.has_devices
        )

    def may_have_gpus(self, name: str) -> bool:
        """Whether the node has an inventory, or is known to have GPUs."""
        return self.inventories.get(name) is not None or self.has_gpus(name)

    def gpu_nodes(self) -> set[str]:
        """The names of all nodes of which Node or ResourceSlices say that they have GPUs."""
        labelled = {name for name, known in self.nodes.items() if known.facts.has_gpus}
        return labelled | self.slices.gpu_nodes()

    def gpu_node_count(self) -> int:
        """The number of nodes that have an inventory, or will have one before any read."""
        with_pods = self.pods.nodes()
        departed = {cached.name for cached in self.inventories if cached.departed}
        own = {name for name in with_pods if self.pods.on_own_target(name)}
        known = {cached.name for cached in self.inventories} | self.gpu_nodes() | own
        return len(known - (departed - with_pods))

    def forget_node(self, name: str) -> None:
        """Drop a node that does not exist any more."""
        self.nodes.remove(name)
        self.pods.forget(name)

    def _skip_reason(
        self, name: str, inventory: CachedInventory | None, policy: EffectivePolicy
    ) -> SkipReason | None:
        if self.inventories.is_invalid(name):
            return SkipReason.INVALID_INVENTORY
        if inventory is not None and self.policies.is_unreadable(inventory.policy):
            return SkipReason.UNREADABLE_POLICY
        if policy.unknown_sinks:
            return SkipReason.UNKNOWN_SINK
        return None
