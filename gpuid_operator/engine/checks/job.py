"""A check and how to run it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property

from gpuid_operator.engine.core.pod_selector import PodSelector
from gpuid_operator.plan.checks import digest_of


@dataclass(frozen=True, kw_only=True)
class CheckJob:
    """A check to run in the pods that a selector matches."""

    name: str
    source: PodSelector
    container: str | None
    """None: the default container of the pod."""
    command: str
    """A script for `/bin/sh -c`."""
    timeout: timedelta
    interval: timedelta
    """Zero: the check runs only when a container becomes ready."""
    restart: bool
    """Whether a failure restarts the pod if the guards allow it."""

    @cached_property
    def digest(self) -> str:
        """Identifies the command and the place. A result with another digest does not count."""
        where = (self.source.namespace, self.source.selector, self.container or "")
        return digest_of(*where, self.command)
