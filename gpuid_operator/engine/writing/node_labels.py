"""gpuid's labels on Node objects, kept in line with what was read."""

from __future__ import annotations

from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Conflict, KubeError, NotFound
from gpuid_operator.kube.nodes import NodeFacts, get_node, patch_node_labels
from gpuid_operator.plan.labels import node_label_changes
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_ATTEMPTS = 4


class NodeLabeller:
    """Writes the labels of Nodes."""

    def __init__(self, client: KubeClient, *, state: ClusterState) -> None:
        self._client = client
        self._state = state
        self._inventories = state.inventories

    def changes(self, name: str) -> dict[str, str | None]:
        """What is to be merged into the node's labels, as far as is known now."""
        known = self._state.nodes.get(name)
        cached = self._inventories.get(name)
        if known is None or cached is None or cached.pairs is None or cached.departed:
            return {}
        if self._state.skip_reason(name) is not None:
            return {}
        effective = self._state.effective_policy(name, cached)
        if effective.suspended:
            return {}
        return node_label_changes(known.facts.labels, cached.pairs, enabled=effective.node_labels)

    async def sync(self, name: str) -> None:
        """Write what is due. A failure is logged; the next read or re-sync mends it."""
        try:
            for _ in range(_ATTEMPTS):
                changes = self.changes(name)
                if not changes:
                    return
                facts = self._state.nodes[name].facts
                try:
                    version = await patch_node_labels(self._client, facts, changes)
                except Conflict:
                    # A node's status moves all the time, and its resourceVersion with it.
                    self._state.nodes.put(await get_node(self._client, name))
                    continue
                self._state.nodes.put(_with_labels(facts, changes, version))
                return
            _log.warning("node labels were not written: the node kept changing", node=name)
        except NotFound:
            self._state.forget_node(name)
        except KubeError as error:
            _log.warning("node labels were not written", node=name, error=error.message)


def _with_labels(
    facts: NodeFacts, changes: dict[str, str | None], resource_version: str
) -> NodeFacts:
    merged = {**facts.labels, **changes}
    return NodeFacts(
        name=facts.name,
        uid=facts.uid,
        provider_id=facts.provider_id,
        boot_id=facts.boot_id,
        resource_version=resource_version,
        labels={key: value for key, value in merged.items() if value is not None},
        gpu_capacity=facts.gpu_capacity,
    )
