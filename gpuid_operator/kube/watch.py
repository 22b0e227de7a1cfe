"""Watches objects or only their metadata, starting at the version of a list.

Kopf watches whole objects. For inventories, these are mostly the writes of this process itself:
three times 13 KB per node at a cold start, parsed for nothing (docs/adr/0007).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gpuid_operator.kube.client import ONLY_METADATA, KubeClient
from gpuid_operator.kube.errors import ApiUnreachable, Gone, ServerError

SERVER_TIMEOUT: Final = 300
"""Seconds after which the server ends a watch; the next one continues from there."""

SILENCE: Final = 70.0
"""Seconds without an event or bookmark (one per minute) after which a watch counts as dead."""


@dataclass(frozen=True, slots=True)
class MetadataEvent:
    """An event of a watch. A bookmark has no object and only shows that the watch is alive."""

    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    metadata: dict[str, Any]


async def watch_metadata(
    client: KubeClient, path: str, *, version: str
) -> AsyncIterator[MetadataEvent]:
    """As `watch_objects`, without spec and status."""
    async for kind, body in watch_objects(client, path, version=version, accept=ONLY_METADATA):
        yield MetadataEvent(kind, body["metadata"])


async def watch_objects(
    client: KubeClient,
    path: str,
    *,
    version: str,
    params: Mapping[str, str] | None = None,
    accept: str = "application/json",
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The events of a collection after `version`: their types, as those of MetadataEvent, and the
    objects.

    A watch that ends regularly is opened again. Raises Gone if the version is too old: list again;
    ApiError and ApiUnreachable: watch again from the version of the last event.
    """
    while True:
        query = {
            **(params or {}),
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(SERVER_TIMEOUT),
        }
        async for line in client.lines(path, params=query, accept=accept, silence=SILENCE):
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ApiUnreachable(
                    f"GET {path}: the watch was interrupted within an event"
                ) from error
            kind, body = event["type"], event["object"]
            if kind == "ERROR":
                raise _error(path, body)
            version = body["metadata"]["resourceVersion"]
            yield kind, body


def _error(path: str, status: dict[str, Any]) -> Gone | ServerError:
    code, words = status.get("code") or 500, str(status.get("message") or "no reason given")
    kind = Gone if code == 410 else ServerError
    return kind(
        f"GET {path}: the watch ended: {words}",
        status=code,
        reason=str(status.get("reason") or ""),
        server_message=words,
    )
