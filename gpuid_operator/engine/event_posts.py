"""Kubernetes Events of inventories, posted beside the work that gave rise to them."""

from __future__ import annotations

import asyncio
from typing import Final

from gpuid_operator.api.meta import API_VERSION, INVENTORY_KIND
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.events import EventType, Involved, post_event

_MAX_UNDER_WAY: Final = 64
"""Events under way at a time; more are dropped: nothing may wait for them."""


class EventPosts:
    """Posts Events that nobody waits for."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._under_way: set[asyncio.Task[None]] = set()

    def post(
        self,
        node: str,
        uid: str,
        *,
        reason: str,
        message: str,
        type: EventType,  # noqa: A002 - the API's own name
    ) -> None:
        """Begin to post an Event about the inventory of a node, which has this uid."""
        if len(self._under_way) >= _MAX_UNDER_WAY:
            return
        involved = Involved(API_VERSION, INVENTORY_KIND, node, uid)
        task = asyncio.create_task(
            post_event(self._client, involved=involved, reason=reason, message=message, type=type)
        )
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def finish(self) -> None:
        """Wait for those that are under way."""
        if self._under_way:
            await asyncio.wait(self._under_way)
