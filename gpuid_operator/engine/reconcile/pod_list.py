"""Lists the pods of targets: whole ones at the start, and afterwards their metadata. Only those
whose resourceVersion is not the known one are fetched (docs/adr/0022)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpuid_operator.engine.core.listing import fetch_singly
from gpuid_operator.engine.core.pod_selector import PodSelector, selects
from gpuid_operator.engine.core.turns import pause
from gpuid_operator.engine.state.pods import PodCache
from gpuid_operator.engine.state.resource_version import newest
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Forbidden, NotFound
from gpuid_operator.kube.pods import get_pod, list_pods

_Key = tuple[int, str]
"""Number of a target, and uid of a pod that its selector selects."""


class PodList:
    """Lists the pods of one watch, and keeps the pod cache complete."""

    def __init__(
        self,
        client: KubeClient,
        watch: PodSelector,
        members: tuple[PodSelector, ...],
        *,
        pods: PodCache,
    ) -> None:
        """`members` are the selectors that the watch serves."""
        self._client = client
        self._watch = watch
        self._members = members
        self._targets = {member: pods.targets_of(member) for member in members}
        self._pods = pods
        # The versions of pods that are selected and are no pods of the target, as they lack its
        # container or are over.
        self._others: dict[_Key, str] = {}

    async def run(self) -> set[str]:
        """List the pods. Returns the names of the nodes whose pods changed. Raises KubeError."""
        with self._pods.listing():
            known = self._known()
            changed, new = await self._list(known, only_metadata=bool(known))
            if fetch_singly(len(new), known=len(known)):
                try:
                    for name, keys in new.items():
                        changed |= await self._fetch(name, keys, known)
                    return changed
                except Forbidden:
                    pass  # a Role of the user's own may permit lists alone
            more, _ = await self._list(known, only_metadata=False)
        return changed | more

    def _known(self) -> dict[_Key, str]:
        """The versions of the known pods, before the list."""
        numbers = [number for numbers in self._targets.values() for number in numbers]
        return {
            (number, uid): version
            for number in numbers
            for uid, version in self._pods.versions(number).items()
        }

    async def _list(
        self, known: Mapping[_Key, str], *, only_metadata: bool
    ) -> tuple[set[str], dict[str, list[_Key]]]:
        """Returns the nodes whose pods changed, and the pods to fetch, by name."""
        changed: set[str] = set()
        new: dict[str, list[_Key]] = {}
        unseen, others = dict(known), self._others
        self._others = {}
        async for body in list_pods(
            self._client,
            namespace=self._watch.namespace,
            selector=self._watch.selector,
            since=newest(known.values()),
            only_metadata=only_metadata,
        ):
            meta = body["metadata"]
            keys, version = list(self._keys(meta)), meta["resourceVersion"]
            for key in keys:
                unseen.pop(key, None)
            if "spec" in body or not only_metadata:
                changed |= self._take(body)
            elif all(version in (known.get(key), others.get(key)) for key in keys):
                self._others |= {key: version for key in keys if others.get(key) == version}
            else:
                new[meta["name"]] = keys
            await pause()
        for (number, uid), version in unseen.items():
            changed |= self._pods.remove_unlisted(number, uid, version)
        return changed, new

    async def _fetch(self, name: str, keys: list[_Key], known: Mapping[_Key, str]) -> set[str]:
        """Fetch a pod that was listed under these keys. Another pod may have its name by now."""
        try:
            body = await get_pod(self._client, namespace=self._watch.namespace, name=name)
        except NotFound:
            changed, found = set(), set()
        else:
            changed, found = self._take(body), set(self._keys(body["metadata"]))
        for number, uid in keys:
            if (number, uid) in known and (number, uid) not in found:
                changed |= self._pods.remove_unlisted(number, uid, known[number, uid])
        return changed

    def _take(self, body: Mapping[str, Any]) -> set[str]:
        """Store a whole pod. Returns the nodes whose pods changed."""
        changed: set[str] = set()
        version = body["metadata"]["resourceVersion"]
        for number, uid in self._keys(body["metadata"]):
            pod = self._pods.read(number, body)
            changed |= self._pods.put(number, uid, pod, version=version)
            if pod is None:
                self._others[number, uid] = version
        return changed

    def _keys(self, meta: Mapping[str, Any]) -> Iterator[_Key]:
        """The targets whose selectors select a pod."""
        labels = meta.get("labels") or {}
        for member, numbers in self._targets.items():
            if selects(member, labels, members=self._members):
                for number in numbers:
                    yield number, meta["uid"]
