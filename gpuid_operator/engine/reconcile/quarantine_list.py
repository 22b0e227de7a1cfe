"""Lists the quarantines, where the API server serves them.

The CRD of quarantines may be missing, as after an upgrade of the operator alone, and so may the
right to list them. Then quarantines have no effect, and the operator looks again from time to time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

from gpuid_operator.engine.core.background import Loop
from gpuid_operator.engine.state.quarantines import QuarantineCache
from gpuid_operator.engine.state.resource_version import newest
from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import Forbidden, KubeError, NotFound
from gpuid_operator.kube.quarantines import list_quarantines
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)


class QuarantineList:
    """Lists all quarantines into the cache."""

    def __init__(
        self,
        client: KubeClient,
        *,
        quarantines: QuarantineCache,
        changed: Callable[[], None],
        availability_changed: Callable[[], None],
        period: timedelta,
    ) -> None:
        """`changed` is called when a list changes what is known; `availability_changed` when a
        list succeeds after one that did not, or the reverse; `period` is the time between two looks
        while they cannot be listed."""
        self._client = client
        self._quarantines = quarantines
        self._changed = changed
        self._availability_changed = availability_changed
        self._period = period
        self.available: bool | None = None
        """Whether the last list succeeded; None before the first one."""

    def loops(self) -> list[Loop]:
        return [self._look_again]

    async def run(self) -> None:
        """List the quarantines. Raises KubeError where that fails for another reason than a missing
        kind or right."""
        try:
            with self._quarantines.listing() as known:
                since = newest(known.values())
                bodies = await list_quarantines(self._client, since=since)
                changed = self._quarantines.take_all(bodies, known=known)
        except (NotFound, Forbidden) as error:
            self._set_available(False, error)
            self._quarantines.forget_all()
            return
        self._set_available(True)
        if changed:
            self._changed()

    def _set_available(self, available: bool, error: KubeError | None = None) -> None:
        before, self.available = self.available, available
        if before is available:
            return
        if isinstance(error, NotFound):
            _log.warning("GPUQuarantine is not served; quarantines have no effect; install its CRD")
        elif error is not None:
            _log.warning("failed to list quarantines; they have no effect", error=error.message)
        elif before is not None:
            _log.info("quarantines can be listed; they have an effect from now on")
        if before is not None:
            self._availability_changed()

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(self._period.total_seconds())
            if self.available:
                continue
            try:
                await self.run()
            except KubeError as error:
                _log.debug("failed to list quarantines", error=error.message)
