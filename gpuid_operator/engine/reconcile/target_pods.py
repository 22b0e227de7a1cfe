"""Lists the pods of the targets, in the namespaces in which the operator may.

A preset names namespaces that a cluster may not have, and the operator has rights in those alone
that exist. It works without the others; each resync tries them again. A right that it had and lost
may come back soon, so it looks for that more often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.core.options import Timings
from gpuid_operator.engine.core.pod_selector import PodSelector, merge
from gpuid_operator.engine.reconcile.pod_list import PodList
from gpuid_operator.engine.state.cluster_state import ClusterState
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Forbidden, KubeError
from gpuid_operator.kube.pods import may_list_pods
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class TargetPods:
    """Keeps the pod cache complete, and knows the namespaces that the operator may not read."""

    def __init__(
        self,
        client: KubeClient,
        *,
        state: ClusterState,
        namespaces_changed: Callable[[], None],
        enqueue: Callable[[Iterable[str]], None],
        timings: Timings,
    ) -> None:
        """`namespaces_changed` is called when other namespaces can be read than before; `enqueue`
        takes the nodes whose pods appeared then."""
        self._client = client
        self._pods = state.pods
        self._namespaces_changed = namespaces_changed
        self._enqueue = enqueue
        self._look = timings.namespace_look.total_seconds()
        self._lists: dict[PodSelector, PodList] = {}
        self._errors: dict[str, Forbidden] = {}
        self._readable: set[str] = set()
        """Namespaces whose pods this process could list at some time."""

    def loops(self) -> list[Loop]:
        # A single namespace of the user's own is never without rights: `list_all` raises.
        own = all(target.preset is None for target in self._pods.targets)
        return [] if own and len(self._pods.namespaces) == 1 else [self._follow_rights]

    async def list_all(self) -> set[str]:
        """List the pods of all targets. Returns the names of the nodes whose pods changed.

        Raises KubeError; Forbidden only if the operator may not list pods in any namespace, and
        one of them is of a target that is no preset.
        """
        changed: set[str] = set()
        forbidden: dict[str, Forbidden] = {}
        for watch, members in merge(self._pods.selectors).items():
            if watch.namespace in forbidden:
                continue
            try:
                changed |= await self._list(watch, members).run()
            except Forbidden as error:
                forbidden[watch.namespace] = error
        self._set_forbidden(forbidden)
        return changed

    async def probe(self) -> None:
        """Look whether the operator may list pods now in the namespaces in which it could before.

        Raises KubeError, as `list_all`.
        """
        # A list that ends meanwhile may find more namespaces.
        looked = {
            namespace: await may_list_pods(self._client, namespace=namespace)
            for namespace in sorted(self._readable)
        }
        errors = self._errors | looked
        self._set_forbidden({name: error for name, error in errors.items() if error is not None})

    def _list(self, watch: PodSelector, members: tuple[PodSelector, ...]) -> PodList:
        if watch not in self._lists:
            self._lists[watch] = PodList(self._client, watch, members, pods=self._pods)
        return self._lists[watch]

    def _set_forbidden(self, errors: dict[str, Forbidden]) -> None:
        self._readable |= self._pods.namespaces - errors.keys()
        own = any(one.preset is None for one in self._pods.targets if one.namespace in errors)
        everywhere = errors.keys() >= self._pods.namespaces
        if own and everywhere:
            raise next(iter(errors.values()))
        self._errors = errors
        before, self._pods.forbidden = self._pods.forbidden, frozenset(errors)
        if self._pods.forbidden == before:
            return
        if errors:
            # A preset names namespaces that most clusters do not have. Without any, the inventories
            # of GPU nodes say what to do.
            log = _log.warning if own or everywhere else _log.info
            log(
                "not permitted to list target pods in some namespaces; continuing without them",
                namespaces=sorted(errors),
            )
        else:
            _log.info("permitted to list target pods in all namespaces")
        self._namespaces_changed()

    async def _follow_rights(self) -> None:
        lost: frozenset[str] = frozenset()
        while True:
            await asyncio.sleep(self._look)
            before = self._pods.forbidden
            if not before & self._readable:
                lost = frozenset()
                continue
            try:
                await self.probe()
                # Nobody says any more which pods are gone there, and some may come back soon.
                for namespace in lost & self._pods.forbidden:
                    self._enqueue(self._pods.forget_namespace(namespace))
                lost = self._pods.forbidden
                if before - lost:
                    self._enqueue(await self.list_all())
            except KubeError as error:
                _log.warning("failed to list target pods", error=error.message)
