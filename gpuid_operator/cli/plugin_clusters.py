"""The clusters that a command queries in parallel, each with its own errors."""

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
"""The names that the API server accepts; a slash in a name would change the path of a request."""
_QPS: Final = 100.0
_BURST: Final = 200


@dataclass(frozen=True, slots=True)
class Cluster:
    """One cluster, under the name of its context."""

    name: str
    client: KubeClient

    async def inventory(self, node: str) -> Inventory | None:
        """The inventory of a node, or None."""
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

        The API server selects, so a large fleet sends only the matching objects.
        """
        name = label_text(identifier)
        if not name:
            return []
        answers = await asyncio.gather(
            *(
                # Without pages: the API server serves unpaged lists from memory.
                self.client.request("GET", COLLECTION, params={"labelSelector": f"{prefix}/{name}"})
                for prefix in LOOKUP_PREFIXES
            )
        )
        bodies = {body["metadata"]["name"]: body for answer in answers for body in answer["items"]}
        return [Inventory.from_object(bodies[node]) for node in sorted(bodies)]

    async def inventories(self, *, with_history: bool) -> AsyncIterator[Inventory]:
        """All inventories, read in pages. Without `with_history` each comes without its history,
        which is most of its size."""
        async for body in list_inventories(self.client):
            if not with_history:
                body.get("status", {}).pop("history", None)
            yield Inventory.from_object(body)


def could_be_node(name: str) -> bool:
    """Whether the API server accepts the name for an object."""
    return _NAME.fullmatch(name) is not None


class Clusters:
    """The requested clusters, and the errors of those that failed."""

    def __init__(self, *, several: bool) -> None:
        self.several = several
        """More than one cluster is requested: each row names its cluster."""
        self.reached: list[Cluster] = []
        """The clusters without an error so far."""
        self.problems: list[str] = []

    @property
    def names(self) -> str:
        """The contexts of the reached clusters, for messages."""
        word = "contexts" if len(self.reached) > 1 else "context"
        return f"{word} {', '.join(cluster.name for cluster in self.reached)}"

    async def ask(self, question: Callable[[Cluster], Awaitable[T]]) -> list[tuple[Cluster, T]]:
        """Query all clusters in parallel. A cluster that fails adds a problem and is left out of
        later queries."""
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
                f"context {cluster.name}: failed to parse a GPUInventory: {first_fault(error)};"
                " install the version of the plugin that matches the operator"
            )
        return None


async def explain(cluster: Cluster, error: KubeError) -> str:
    """The error as one line for the user of the plugin."""
    match error:
        case Forbidden():
            return (
                f"context {cluster.name}: permission denied: {error.server_message}; grant the"
                f" verbs get and list on {RESOURCE}, and patch for 'read'"
            )
        case Unauthorized():
            return (
                f"context {cluster.name}: the API server rejected the credentials of the kubeconfig"
                " (401); log in again"
            )
        case NotFound() if await _not_installed(cluster):
            return (
                f"context {cluster.name}: the cluster does not serve {RESOURCE}; install"
                " gpuid-operator there, or choose another context"
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
    """Connect to the clusters, query them, print problems on stderr; return the exit code."""
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
    """The cluster of a context (None: the current context), or the error message."""
    path = Path(kubeconfig) if kubeconfig else None
    try:
        client = await KubeClient.connect(qps=_QPS, burst=_BURST, kubeconfig=path, context=context)
    except KubeError as error:
        return error.message
    return Cluster(name=context or KubeconfigNames.read(kubeconfig).current, client=client)


def say(text: str) -> None:
    """Print the text as one line on stderr, with each run of whitespace as one space."""
    click.echo(" ".join(text.split()), err=True)
