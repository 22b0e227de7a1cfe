"""Reads GPUQuarantine objects and writes their status."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gpuid_operator.api.meta import API_VERSION, QUARANTINE_KIND, QUARANTINE_PLURAL
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.paging import list_pages
from gpuid_operator.kube.status import apply_whole_status

_QUARANTINES: Final = f"/apis/{API_VERSION}/{QUARANTINE_PLURAL}"


async def list_quarantines(client: KubeClient, *, since: str = "") -> list[dict[str, Any]]:
    """All quarantines as API objects. See `list_pages` for `since`.

    Raises NotFound where the CRD is not installed, Forbidden where the right is missing,
    ListExpired, and what `KubeClient.request` raises.
    """
    pages = list_pages(client, _QUARANTINES, since=since)
    return [body async for page in pages for body in page["items"]]


async def create_quarantine(client: KubeClient, body: Mapping[str, Any]) -> None:
    """Create a quarantine from a manifest. Raises AlreadyExists, NotFound where the CRD is not
    installed, and what `KubeClient.request` raises."""
    await client.request("POST", _QUARANTINES, body=body)


async def apply_quarantine_status(
    client: KubeClient,
    *,
    name: str,
    resource_version: str,
    status: Mapping[str, Any],
    manager: str,
) -> str:
    """Apply the whole status of a quarantine; see `apply_whole_status`."""
    return await apply_whole_status(
        client,
        _QUARANTINES,
        kind=QUARANTINE_KIND,
        name=name,
        resource_version=resource_version,
        status=status,
        manager=manager,
    )
