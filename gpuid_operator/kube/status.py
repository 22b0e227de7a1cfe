"""Writes the status of an object by server-side apply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpuid_operator.api.meta import API_VERSION
from gpuid_operator.kube.client import APPLY_PATCH, ONLY_METADATA, KubeClient, item


async def apply_whole_status(
    client: KubeClient,
    collection: str,
    *,
    kind: str,
    name: str,
    resource_version: str,
    status: Mapping[str, Any],
    manager: str,
) -> str:
    """Apply the whole status of an object of ours; return the new resourceVersion.

    Raises Conflict if the object changed since `resource_version`, NotFound, and what
    `KubeClient.request` raises.
    """
    answer = await client.request(
        "PATCH",
        f"{item(collection, name)}/status",
        params={"fieldManager": manager, "force": "true"},
        body={
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"name": name, "resourceVersion": resource_version},
            "status": status,
        },
        content_type=APPLY_PATCH,
        accept=ONLY_METADATA,
    )
    version: str = answer["metadata"]["resourceVersion"]
    return version
