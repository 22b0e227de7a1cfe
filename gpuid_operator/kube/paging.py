"""Lists in pages of one snapshot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from gpuid_operator.kube.api_errors import check_list_version
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Gone, ListExpired


async def list_pages(
    client: KubeClient,
    path: str,
    *,
    params: Mapping[str, str] | None = None,
    accept: str | None = None,
    limit: int = 500,
    since: str = "",
) -> AsyncGenerator[dict[str, Any], None]:
    """List in pages of at most `limit` objects: yields the body of each page of one snapshot.

    The next page is on its way while the caller works on one.

    Raises ListExpired if the list is older than the resourceVersion `since`, or if the server drops
    the snapshot between two pages (after about five minutes): the list is incomplete, so start it
    again. Also raises what `KubeClient.request` raises.
    """
    query = {**(params or {}), "limit": str(limit)}
    coming = asyncio.create_task(_page(client, path, query, accept=accept, since=since))
    try:
        while True:
            page = await coming
            token = page.get("metadata", {}).get("continue")
            if token:
                later = {**query, "continue": token}
                coming = asyncio.create_task(_page(client, path, later, accept=accept, since=since))
            yield page
            if not token:
                return
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def _page(
    client: KubeClient, path: str, query: Mapping[str, str], *, accept: str | None, since: str
) -> dict[str, Any]:
    try:
        page: dict[str, Any] = await client.request(
            "GET", path, params=query, accept=accept, timeout=60.0
        )
    except Gone as error:
        raise ListExpired(f"{error.message}; list again from the start") from error
    check_list_version(path, page, since=since)
    # An empty list of metadata has null here.
    page["items"] = page.get("items") or []
    return page
