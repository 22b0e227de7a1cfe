"""The failed reads of each node since its last good read, and the back-off after them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from gpuid_operator.engine.core.jitter import chance
from gpuid_operator.engine.core.wall_clock import loop_start
from gpuid_operator.kube.pods import TargetPod
from gpuid_operator.plan.failure import FailureReason
from gpuid_operator.plan.schedule import BACKOFF_MAX, backoff
from gpuid_operator.telemetry.log import get_logger
from gpuid_operator.telemetry.metrics import Metrics

_log = get_logger(__name__)

_RARELY: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ReadFailures:
    """The failures of one node in a row, all of the same container."""

    count: int
    container: str
    """Its containerID."""
    retry_at: timedelta
    """The end of the back-off, on the loop's clock."""
    hung: bool
    """Whether the last read timed out: its command may still be running."""
    request: str | None
    """The token of `requestedAt` that the last read was for."""


class FailureLog:
    """Remembers failures by node. Lost on a restart, after which every failed node is due."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._failures: dict[str, ReadFailures] = {}

    def get(self, node: str) -> ReadFailures | None:
        return self._failures.get(node)

    def add(
        self,
        node: str,
        pod: TargetPod,
        *,
        reason: str,
        message: str,
        request: str | None,
        now: datetime,
        rarely: bool = False,
    ) -> int:
        """Start the back-off, count and log a failure of this moment. Returns how many there were
        in a row; those of another container no longer count. With `rarely`, the back-off grows to
        an hour."""
        known, container = self._failures.get(node), pod.container_id
        count = known.count + 1 if known is not None and known.container == container else 1
        pause = backoff(count, chance=chance(), most=_RARELY if rarely else BACKOFF_MAX)
        hung = reason == FailureReason.TIMED_OUT
        retry_at = now + pause - loop_start(now)
        self._failures[node] = ReadFailures(count, container, retry_at, hung, request)
        self._metrics.reads.labels(reason).inc()
        _log.warning(
            "failed to read node",
            node=node,
            pod=pod.name,
            reason=reason,
            error=message,
            failures=count,
        )
        return count

    def clear(self, node: str) -> None:
        """Forget the failures of a node that was read, or is gone."""
        self._failures.pop(node, None)
