"""Reads GPUInventoryPolicy objects and writes their status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gpuid_operator.api.meta import API_VERSION, POLICY_KIND, POLICY_PLURAL
from gpuid_operator.kube.client import APPLY_PATCH, ONLY_METADATA, KubeClient, item

_POLICIES: Final = f"/apis/{API_VERSION}/{POLICY_PLURAL}"


async def list_policies(client: KubeClient) -> list[dict[str, Any]]:
    """All policies as API objects. Raises ListExpired, and what `KubeClient.request` raises."""
    return [body async for page in client.pages(_POLICIES) for body in page["items"]]


async def apply_policy_status(
    client: KubeClient,
    *,
    name: str,
    resource_version: str,
    status: Mapping[str, Any],
    manager: str,
) -> str:
    """Apply the whole status of a policy; return the new resourceVersion.

    Raises Conflict if the policy changed since `resource_version`, NotFound, and what
    `KubeClient.request` raises.
    """
    answer = await client.request(
        "PATCH",
        f"{item(_POLICIES, name)}/status",
        params={"fieldManager": manager, "force": "true"},
        body={
            "apiVersion": API_VERSION,
            "kind": POLICY_KIND,
            "metadata": {"name": name, "resourceVersion": resource_version},
            "status": status,
        },
        content_type=APPLY_PATCH,
        accept=ONLY_METADATA,
    )
    version: str = answer["metadata"]["resourceVersion"]
    return version
