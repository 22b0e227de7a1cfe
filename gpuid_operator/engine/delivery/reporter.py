"""What a channel has written into statuses, so that each node is told once of each trouble."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from gpuid_operator.engine.delivery.outbox_entry import PendingEntries

_VARYING: Final = re.compile(r"(?=[\w+.:-]{6})[\w+.:-]*\d[\w+.:-]*")
"""Words that differ from answer to answer, such as times and ids of requests: an error that is
otherwise the same is not written to a thousand statuses again."""


class DeliveryReporter:
    """Acknowledgements, and why a sink takes nothing."""

    def __init__(self, outbox: PendingEntries) -> None:
        self._outbox = outbox
        self._told: dict[str, str] = {}

    def delivered(self, node: str, *, uid: str, up_to: int) -> None:
        """The sink has every entry of this inventory up to `up_to`."""
        self._told.pop(node, None)
        self._outbox.delivered(node, uid=uid, up_to=up_to)

    def failed(self, nodes: Collection[str], words: str) -> None:
        """The sink does not take what these nodes have for it."""
        gist = _VARYING.sub("", words)
        for node in nodes:
            if self._told.get(node) != gist:
                self._told[node] = gist
                self._outbox.failed(node, error=words)

    def forget(self, node: str) -> None:
        """The node's inventory is gone."""
        self._told.pop(node, None)
