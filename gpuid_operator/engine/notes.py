"""What a channel has written into statuses, beside its deliveries and never in their way."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Coroutine
from typing import Final

from gpuid_operator.engine.parcel import Outbox

_VARYING: Final = re.compile(r"(?=[\w+.:-]{6})[\w+.:-]*\d[\w+.:-]*")
"""Words that differ from answer to answer, such as times and ids of requests: an error that is
otherwise the same is not written to a thousand statuses again."""


class Notes:
    """Acknowledgements, and why a sink takes nothing: each node is told once of each trouble."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._told: dict[str, str] = {}
        self._writing: set[asyncio.Task[None]] = set()

    def delivered(self, node: str, *, uid: str, upto: int) -> None:
        """The sink has every entry of this inventory up to `upto`."""
        self._told.pop(node, None)
        self._write(self._outbox.delivered(node, uid=uid, upto=upto))

    def failed(self, nodes: Collection[str], words: str) -> None:
        """The sink does not take what these nodes have for it."""
        gist = _VARYING.sub("", words)
        for node in nodes:
            if self._told.get(node) != gist:
                self._told[node] = gist
                self._write(self._outbox.failed(node, error=words))

    def forget(self, node: str) -> None:
        """The node's inventory is gone."""
        self._told.pop(node, None)

    async def finish(self) -> None:
        """Wait until everything is written."""
        while self._writing:
            await asyncio.wait(self._writing)

    def _write(self, writing: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(writing)
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
