"""Kubernetes Events about inventories and quarantines, posted in the background."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

from gpuid_operator.api.meta import API_VERSION, INVENTORY_KIND
from gpuid_operator.engine.core.background import Background
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.events import EventType, Involved, post_event

_POSTERS: Final = 4
"""Events posted at a time. Writes share the client's rate limit with them, and matter more."""
_MAX_WAITING: Final = 10_000
"""Events that wait at a time. The recorder drops further ones; the log has what they say."""


class EventRecorder:
    """Posts Events without letting the caller wait."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._waiting: deque[Callable[[], Awaitable[None]]] = deque()
        self._posters = Background()
        self._posting = 0

    def post(
        self,
        name: str,
        uid: str,
        *,
        kind: str = INVENTORY_KIND,
        reason: str,
        message: str,
        type: EventType,  # noqa: A002 - the API's own name
    ) -> None:
        """Post an Event about an object of ours with this name and uid."""
        if len(self._waiting) >= _MAX_WAITING:
            return
        involved = Involved(API_VERSION, kind, name, uid)
        post = partial(post_event, self._client, involved=involved, reason=reason)
        self._waiting.append(partial(post, message=message, type=type, now=datetime.now(UTC)))
        if self._posting < _POSTERS:
            self._posting += 1
            self._posters.start(self._work())

    async def finish(self, *, within: float) -> bool:
        """Post the waiting Events, and abandon those left after this many seconds. Returns whether
        all were posted."""
        return await self._posters.finish(within=within)

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._waiting.popleft()()
        finally:
            self._posting -= 1
