"""Shell completion of `kubectl gpuid`, in the protocol of kubectl.

kubectl runs `kubectl_complete-gpuid` with the words after `gpuid`, the last of which is the one to
complete. The output is one candidate per line, with its description after a tab, and at the end a
colon and the number of a directive to the shell (k8s.io/kubectl: plugin_completion.go; cobra:
ShellCompDirective).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click
from click.shell_completion import CompletionItem, ShellComplete

from gpuid_operator.api.meta import API_VERSION, INVENTORY_PLURAL, SERIAL_LABEL, UUID_LABEL
from gpuid_operator.cli.plugin_kubeconfig import KubeconfigNames

NO_SPACE: Final = 2
NO_FILES: Final = 4
FILES: Final = 0

_PATIENCE: Final = 5.0
"""Seconds after which there are no candidates: a shell must not hang."""
_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_COLLECTION: Final = f"/apis/{API_VERSION}/{INVENTORY_PLURAL}"
_UUID_START: Final = "GPU-"


def answer(command: click.Command, words: Sequence[str]) -> None:
    """Print the candidates for the last word."""
    *before, incomplete = words or [""]
    items = ShellComplete(command, {}, "kubectl gpuid", "").get_completions(before, incomplete)
    directive = FILES if any(item.type in ("file", "dir") for item in items) else NO_FILES
    for item in items:
        if item.type == "plain":
            click.echo(f"{item.value}\t{item.help}" if item.help else item.value)
        elif item.type == "list":
            click.echo(item.value)
            directive |= NO_SPACE
    click.echo(f":{directive}")


def suggestions(
    kind: str,
    incomplete: str,
    *,
    kubeconfig: str | None,
    contexts: Sequence[str],
    given: Sequence[str],
) -> list[CompletionItem[Any]]:
    """Candidates of a kind: context, contexts (a list with commas), node, gpu (a serial, or a UUID
    when it begins like one), subject (node or gpu). Nodes in `given` are left out.

    An error means no candidates: a shell has no place to show it.
    """
    if kind == "context":
        return _items(KubeconfigNames.read(kubeconfig).contexts, incomplete)
    if kind == "contexts":
        head, comma, last = incomplete.rpartition(",")
        names = KubeconfigNames.read(kubeconfig).contexts
        return [
            CompletionItem(f"{head}{comma}{name}", type="list")
            for name in names
            if name.startswith(last) and name not in head.split(",")
        ]
    objects = _objects(kubeconfig, contexts)
    nodes = [meta["name"] for meta in objects if meta["name"] not in given]
    found = _items(nodes, incomplete) if kind in ("node", "subject") else []
    if kind in ("gpu", "subject"):
        prefix = UUID_LABEL if incomplete.startswith(_UUID_START) else SERIAL_LABEL
        found += _identifiers(objects, prefix, incomplete)
    return found


def _items(names: Sequence[str], incomplete: str) -> list[CompletionItem[Any]]:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _identifiers(
    objects: Sequence[dict[str, Any]], prefix: str, incomplete: str
) -> Iterator[CompletionItem[Any]]:
    """Identifiers in look-up labels, each with its present and past nodes."""
    start = f"{prefix}/{incomplete}"
    nodes: dict[str, list[str]] = {}
    for meta in objects:
        for label, value in (meta.get("labels") or {}).items():
            if label.startswith(start):
                nodes.setdefault(label.partition("/")[2], []).append(f"{value} {meta['name']}")
    for name in sorted(nodes):
        yield CompletionItem(name, help=", ".join(sorted(nodes[name], reverse=True)))


def _objects(kubeconfig: str | None, contexts: Sequence[str]) -> list[dict[str, Any]]:
    """The metadata of all inventories in the contexts."""
    # Imported only by completions that query the cluster.
    from gpuid_operator.kube.client import KubeClient
    from gpuid_operator.kube.errors import KubeError

    async def ask(context: str | None) -> list[dict[str, Any]]:
        path = Path(kubeconfig) if kubeconfig else None
        with suppress(KubeError, TimeoutError):
            async with (
                asyncio.timeout(_PATIENCE),
                await KubeClient.connect(
                    qps=10, burst=10, kubeconfig=path, context=context
                ) as client,
            ):
                # The API server serves version 0 from memory: fast, and recent enough.
                body = await client.request(
                    "GET", _COLLECTION, params={"resourceVersion": "0"}, accept=_METADATA
                )
                return [found["metadata"] for found in body["items"] or ()]
        return []

    async def ask_all() -> list[dict[str, Any]]:
        answers = await asyncio.gather(*(ask(context) for context in contexts or (None,)))
        return [meta for answer in answers for meta in answer]

    return asyncio.run(ask_all())
