"""The clusters that a command asks: opened and asked at the same time, each with its own errors."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import click
from pydantic import ValidationError

from gpuid_operator.api.inventory import Inventory
from gpuid_operator.api.meta import API_VERSION, GROUP, INVENTORY_PLURAL, LOOKUP_PREFIXES
from gpuid_operator.api.values import first_fault
from gpuid_operator.cli.plugin_kubeconfig import KubeconfigNames
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.discovery import missing_kinds
from gpuid_operator.kube.errors import Forbidden, KubeError, NotFound, Unauthorized
from gpuid_operator.kube.inventories import get_inventory, list_inventories
from gpuid_operator.plan.labels import label_text

T = TypeVar("T")

RESOURCE: Final = f"{INVENTORY_PLURAL}.{GROUP}"
COLLECTION: Final = f"/apis/{API_VERSION}/{INVENTORY_PLURAL}"
_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
"""What the API server takes as a name; a slash in anything else would lead elsewhere."""
_QPS: Final = 100.0
_BURST: Final = 200


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster, under the name of its context."""

    name: str
    client: KubeClient

    async def inventory(self, node: str) -> Inventory | None:
        """The inventory of a node; None where there is none."""
        if not could_be_node(node):
            return None
        try:
            body = await get_inventory(self.client, node)
        except NotFound:
            if INVENTORY_PLURAL in await missing_kinds(self.client):
                raise
            return None
        return Inventory.from_object(body)

    async def named_by_labels(self, identifier: str) -> list[Inventory]:
        """The inventories whose look-up labels have this serial, UUID or chassis, sorted by name.

        The server selects: of a large fleet only the objects asked for are sent.
        """
        name = label_text(identifier)
        if not name:
            return []
        answers = await asyncio.gather(
            *(
                # Not in pages: unpaged, the server answers from memory.
                self.client.request("GET", COLLECTION, params={"labelSelector": f"{prefix}/{name}"})
                for prefix in LOOKUP_PREFIXES
            )
        )
        bodies = {body["metadata"]["name"]: body for answer in answers for body in answer["items"]}
        return [Inventory.from_object(bodies[node]) for node in sorted(bodies)]

    async def inventories(self, *, with_history: bool) -> AsyncIterator[Inventory]:
        """All inventories, read in pages; without their histories, which are most of their size,
        where these are not wanted."""
        async for body in list_inventories(self.client):
            if not with_history:
                body.get("status", {}).pop("history", None)
            yield Inventory.from_object(body)


def could_be_node(name: str) -> bool:
    """Whether the name could be that of an object at all."""
    return _NAME.fullmatch(name) is not None


class Clusters:
    """The clusters asked for, and what went wrong with those that gave no answer."""

    def __init__(self, *, several: bool) -> None:
        self.several = several
        """More than one was asked for: answers say which cluster they are about."""
        self.reached: list[Cluster] = []
        """Those that answered so far."""
        self.problems: list[str] = []

    @property
    def names(self) -> str:
        """The contexts that answered, for a sentence."""
        word = "contexts" if len(self.reached) > 1 else "context"
        return f"{word} {', '.join(cluster.name for cluster in self.reached)}"

    async def ask(self, question: Callable[[Cluster], Awaitable[T]]) -> list[tuple[Cluster, T]]:
        """Ask all at once. A cluster that cannot answer is a problem, and is asked no more."""
        asked = self.reached
        answers = await asyncio.gather(*(self._try(cluster, question) for cluster in asked))
        self.reached = [cluster for cluster, answer in zip(asked, answers, strict=True) if answer]
        return [
            (cluster, answer[0])
            for cluster, answer in zip(asked, answers, strict=True)
            if answer is not None
        ]

    async def _try(
        self, cluster: Cluster, question: Callable[[Cluster], Awaitable[T]]
    ) -> tuple[T] | None:
        try:
            return (await question(cluster),)
        except KubeError as error:
            self.problems.append(await explain(cluster, error))
        except ValidationError as error:
            self.problems.append(
                f"context {cluster.name}: a GPUInventory is not as this version of the plugin knows"
                f" it ({first_fault(error)}): install the plugin of the operator's version"
            )
        return None


async def explain(cluster: Cluster, error: KubeError) -> str:
    """What went wrong, in one line for the user of the plugin."""
    match error:
        case Forbidden():
            return (
                f"context {cluster.name}: a right is missing: {error.server_message}; it takes the"
                f" verbs get and list on {RESOURCE}, and patch for 'read'"
            )
        case Unauthorized():
            return (
                f"context {cluster.name}: the API server does not accept the credentials of the"
                " kubeconfig (401): renew them"
            )
        case NotFound() if await _not_installed(cluster):
            return (
                f"context {cluster.name}: the cluster does not serve {RESOURCE}: is gpuid-operator"
                f" installed in context {cluster.name}?"
            )
    return f"context {cluster.name}: {error.message}"


async def _not_installed(cluster: Cluster) -> bool:
    try:
        return INVENTORY_PLURAL in await missing_kinds(cluster.client)
    except KubeError:
        return False


def run(
    answer: Callable[[Clusters], Awaitable[bool]],
    *,
    kubeconfig: str | None,
    contexts: Sequence[str],
) -> int:
    """Open the clusters, have them asked, say on stderr what went wrong; the exit code."""
    return asyncio.run(_run(answer, kubeconfig=kubeconfig, contexts=contexts))


async def _run(
    answer: Callable[[Clusters], Awaitable[bool]],
    *,
    kubeconfig: str | None,
    contexts: Sequence[str],
) -> int:
    async with AsyncExitStack() as stack:
        clusters = Clusters(several=len(contexts) > 1)
        for opened in await asyncio.gather(
            *(_open(kubeconfig, context) for context in contexts or (None,))
        ):
            if isinstance(opened, Cluster):
                clusters.reached.append(opened)
                await stack.enter_async_context(opened.client)
            else:
                clusters.problems.append(opened)
        content = bool(clusters.reached) and await answer(clusters)
        for problem in clusters.problems:
            say(f"error: {problem}")
        return 0 if content and not clusters.problems else 1


async def _open(kubeconfig: str | None, context: str | None) -> Cluster | str:
    """The cluster of a context, None being the current one; or what went wrong."""
    path = Path(kubeconfig) if kubeconfig else None
    try:
        client = await KubeClient.connect(qps=_QPS, burst=_BURST, kubeconfig=path, context=context)
    except KubeError as error:
        return error.message
    return Cluster(name=context or KubeconfigNames.read(kubeconfig).current, client=client)


def say(text: str) -> None:
    """One line on stderr, whatever the text holds."""
    click.echo(" ".join(text.split()), err=True)
