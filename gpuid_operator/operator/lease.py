"""Leader election by a Lease: its holder may watch and write, and stops at once without it.

As in client-go, a lease of another holder has expired when it has not changed for its own duration
by the clock of this process. The clocks of other machines do not count.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from gpuid_operator.kube.leases import LeaseRecord, create_lease, get_lease, update_lease
from gpuid_operator.telemetry.log import get_logger

_log = get_logger(__name__)

_OWN_HOLDER: Final = re.compile(r"_[0-9a-f]{8}$")
_SHARED: Final = (
    "lease is shared with another program, such as gpuid, and nothing is read until that releases"
    " it; to run beside it, set LEASE_NAME (leaderElection.name of the chart) to another name"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseOptions:
    """Which lease, and the times of leader election in seconds."""

    namespace: str
    name: str
    holder: str
    duration: float
    renew_deadline: float
    retry_period: float


class LostLease(Exception):  # noqa: N818 - what happened is its name
    """The lease was not renewed in time, or another instance holds it."""


class Lease:
    """One candidate for the lease. `now` is a monotonic clock in seconds."""

    def __init__(
        self,
        client: KubeClient,
        options: LeaseOptions,
        *,
        beat: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._options = options
        self._beat = beat
        self._now = now
        # A suffix per process: a quick restart under the same pod name is another candidate.
        self.holder = f"{options.holder}_{secrets.token_hex(4)}"
        self._seen: LeaseRecord | None = None
        self._seen_at = 0.0
        self._mine: LeaseRecord | None = None
        self._renewed_at = 0.0

    async def acquire(self) -> None:
        """Wait until this instance holds the lease."""
        logged = ""
        while True:
            self._beat()
            try:
                if await self._try_acquire():
                    _log.info("acquired lease", lease=self._where(), holder=self.holder)
                    return
                other = self._seen.holder if self._seen else ""
                if other != logged:
                    logged = other
                    _log.info("standing by", lease=self._where(), leader=other)
                    if other and not _OWN_HOLDER.search(other):
                        # The environment block of gpuid may have come with its lease.
                        _log.warning(_SHARED, lease=self._where(), leader=other)
            except KubeError as error:
                _log.warning("failed to acquire lease", lease=self._where(), error=error.message)
            await asyncio.sleep(self._options.retry_period)

    async def keep(self) -> None:
        """Renew until cancelled. Raises LostLease when the deadline has passed or another instance
        holds the lease."""
        while True:
            # The process may have been stopped during the renewal, past the deadline.
            self._time_left()
            await asyncio.sleep(self._options.retry_period)
            left = self._time_left()
            try:
                await self._renew(timeout=left)
                self._beat()
            except Conflict as error:
                if await self._is_taken():
                    raise LostLease(f"another instance holds lease {self._where()}") from error
            except KubeError as error:
                _log.warning("failed to renew lease", lease=self._where(), error=error.message)

    def _time_left(self) -> float:
        """Seconds until the deadline. Raises LostLease when it has passed."""
        left = self._renewed_at + self._options.renew_deadline - self._now()
        if left <= 0:
            raise LostLease(
                f"failed to renew lease {self._where()} within {self._options.renew_deadline:g}s"
            )
        return left

    async def release(self) -> None:
        """Let a standby lead at once. After a failure it waits until the lease has expired."""
        if self._mine is None:
            return
        try:
            try:
                await self._give_up()
            except Conflict:
                # A renewal that was cancelled on its way may have reached the server.
                if await self._is_taken():
                    raise
                await self._give_up()
            _log.info("released lease", lease=self._where())
        except KubeError as error:
            _log.warning("failed to release lease", lease=self._where(), error=error.message)
        self._mine = None

    async def _give_up(self) -> None:
        assert self._mine is not None  # noqa: S101 - `release` has looked
        await self._update(replace(self._mine, holder="", duration_seconds=1), timeout=2.0)

    async def _try_acquire(self) -> bool:
        options = self._options
        began = self._now()
        now = datetime.now(UTC)
        wanted = LeaseRecord(
            holder=self.holder,
            duration_seconds=max(1, round(options.duration)),
            acquire_time=now,
            renew_time=now,
            transitions=0,
        )
        try:
            found = await get_lease(
                self._client,
                namespace=options.namespace,
                name=options.name,
                timeout=options.renew_deadline,
            )
        except NotFound:
            try:
                self._mine = await create_lease(
                    self._client,
                    wanted,
                    namespace=options.namespace,
                    name=options.name,
                    timeout=options.renew_deadline,
                )
            except AlreadyExists:
                return False
            self._renewed_at = began
            return True
        if self._seen is None or found.resource_version != self._seen.resource_version:
            self._seen, self._seen_at = found, began
        expired = began >= self._seen_at + max(found.duration_seconds, 1)
        if found.holder not in ("", self.holder) and not expired:
            return False
        try:
            await self._update(
                replace(
                    wanted,
                    transitions=found.transitions + (found.holder != self.holder),
                    resource_version=found.resource_version,
                ),
                timeout=options.renew_deadline,
            )
        except Conflict:
            return False
        self._renewed_at = began
        return True

    async def _renew(self, *, timeout: float) -> None:
        assert self._mine is not None  # noqa: S101 - `acquire` has returned
        began = self._now()
        await self._update(replace(self._mine, renew_time=datetime.now(UTC)), timeout=timeout)
        self._renewed_at = began

    async def _is_taken(self) -> bool:
        """Whether another instance holds the lease. If not, somebody else has changed it, and the
        next renewal starts from what is there."""
        try:
            found = await get_lease(
                self._client,
                namespace=self._options.namespace,
                name=self._options.name,
                timeout=self._options.retry_period,
            )
        except KubeError:
            return False
        if found.holder != self.holder:
            return True
        self._mine = found
        return False

    async def _update(self, record: LeaseRecord, *, timeout: float) -> None:
        self._mine = await update_lease(
            self._client,
            record,
            namespace=self._options.namespace,
            name=self._options.name,
            timeout=timeout,
        )

    def _where(self) -> str:
        return f"{self._options.namespace}/{self._options.name}"
