"""Kubernetes Events of inventories, posted beside the work that gave rise to them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

from gpuid_operator.api.meta import API_VERSION, INVENTORY_KIND
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.events import EventType, Involved, post_event

_POSTERS: Final = 4
"""Events under way at a time: writes share the rate limit with them, and go first."""
_MAX_WAITING: Final = 10_000
"""Events that may wait; further ones are dropped. What they say is in the log, too."""


class EventPosts:
    """Posts Events that nobody waits for."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._waiting: deque[Callable[[], Awaitable[None]]] = deque()
        self._posters: set[asyncio.Task[None]] = set()

    def post(
        self,
        node: str,
        uid: str,
        *,
        reason: str,
        message: str,
        type: EventType,  # noqa: A002 - the API's own name
    ) -> None:
        """Have an Event posted about the inventory of a node, which has this uid."""
        if len(self._waiting) >= _MAX_WAITING:
            return
        involved = Involved(API_VERSION, INVENTORY_KIND, node, uid)
        post = partial(post_event, self._client, involved=involved, reason=reason)
        self._waiting.append(partial(post, message=message, type=type, now=datetime.now(UTC)))
        if len(self._posters) < _POSTERS:
            self._posters.add(asyncio.create_task(self._work()))

    async def finish(self) -> None:
        """Wait until all are posted."""
        if self._posters:
            await asyncio.wait(self._posters)

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._waiting.popleft()()
        finally:
            # Not by a callback: it would run later, and what is posted meanwhile would be left.
            self._posters -= {asyncio.current_task()}
