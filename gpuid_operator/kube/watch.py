"""A watch of objects' metadata, from the version of a list on.

Kopf watches whole objects. Of inventories that is mostly what this process wrote itself a moment
ago: three times 13 KB per node at a cold start, taken apart for nothing (docs/adr/0007).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gpuid_operator.kube.client import ONLY_METADATA, KubeClient
from gpuid_operator.kube.errors import ApiUnreachable, Gone, ServerError

SERVER_TIMEOUT: Final = 300
"""Seconds after which the server ends a watch, and the next one goes on where it was."""

SILENCE: Final = 70.0
"""Seconds without a line, bookmarks included (one a minute), after which a watch counts as dead."""


@dataclass(frozen=True, slots=True)
class MetadataEvent:
    """One event of a watch. A bookmark has no object and tells only that the watch lives."""

    type: str
    """ADDED, MODIFIED, DELETED or BOOKMARK."""
    metadata: dict[str, Any]


async def watch_metadata(
    client: KubeClient, path: str, *, version: str
) -> AsyncIterator[MetadataEvent]:
    """The events of a collection after `version`, for as long as the server keeps them.

    A watch that ends in good order is opened again. Raises Gone when the version is too old: list
    again; ApiError and ApiUnreachable: watch again from the version of the last event.
    """
    while True:
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(SERVER_TIMEOUT),
        }
        async for line in client.lines(path, params=params, accept=ONLY_METADATA, silence=SILENCE):
            try:
                event = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ApiUnreachable(f"GET {path}: the watch broke off within an event") from error
            kind, body = event["type"], event["object"]
            if kind == "ERROR":
                raise _error(path, body)
            version = body["metadata"]["resourceVersion"]
            yield MetadataEvent(kind, body["metadata"])


def _error(path: str, status: dict[str, Any]) -> Gone | ServerError:
    code, words = status.get("code") or 500, str(status.get("message") or "no reason given")
    kind = Gone if code == 410 else ServerError
    return kind(
        f"GET {path}: the watch ended: {words}",
        status=code,
        reason=str(status.get("reason") or ""),
        server_message=words,
    )
