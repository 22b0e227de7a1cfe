"""Reads GPUInventoryPolicy objects and writes their status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gpuid_operator.api.meta import API_VERSION, POLICY_KIND, POLICY_PLURAL
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.paging import list_pages
from gpuid_operator.kube.status import apply_whole_status

_POLICIES: Final = f"/apis/{API_VERSION}/{POLICY_PLURAL}"


async def list_policies(client: KubeClient, *, since: str = "") -> list[dict[str, Any]]:
    """All policies as API objects. Raises as `list_pages`, which explains `since`."""
    return [
        body async for page in list_pages(client, _POLICIES, since=since) for body in page["items"]
    ]


async def apply_policy_status(
    client: KubeClient,
    *,
    name: str,
    resource_version: str,
    status: Mapping[str, Any],
    manager: str,
) -> str:
    """Apply the whole status of a policy; see `apply_whole_status`."""
    return await apply_whole_status(
        client,
        _POLICIES,
        kind=POLICY_KIND,
        name=name,
        resource_version=resource_version,
        status=status,
        manager=manager,
    )
