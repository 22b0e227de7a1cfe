"""Reports of one sink's errors to the statuses of its nodes: each error once per node."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Final

from gpuid_operator.engine.delivery.outbox_entry import DeliveryStatus, Position

_VARYING: Final = re.compile(r"(?=[\w+.:-]{6})[\w+.:-]*\d[\w+.:-]*")
"""Words that differ between answers, such as times and request ids. An error that differs in
nothing else is not written to a thousand statuses again."""


class DeliveryReporter:
    """Passes on deliveries and errors, and drops the errors that a node's status already has."""

    def __init__(self, status: DeliveryStatus) -> None:
        self._status = status
        self._reported: dict[str, str] = {}

    def delivered(self, node: str, position: Position, *, written: Callable[[], None]) -> None:
        """Reports that the sink has every entry up to this position; see DeliveryStatus."""
        self._reported.pop(node, None)
        self._status.delivered(node, position, written=written)

    def failed(self, nodes: Collection[str], error: str) -> None:
        """Reports why the sink does not accept what is pending for these nodes."""
        gist = _VARYING.sub("", error)
        for node in nodes:
            if self._reported.get(node) != gist:
                self._reported[node] = gist
                self._status.failed(node, error=error)

    def forget(self, node: str) -> None:
        """Drops a node whose inventory is gone."""
        self._reported.pop(node, None)
