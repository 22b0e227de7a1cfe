"""The credentials of the client, for Kopf's thread."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from gpuid_operator.kube.client import KubeClient
from gpuid_operator.kube.credentials import Credentials
from gpuid_operator.kube.errors import KubeError

REFRESH_PERIOD: Final = 60.0


class CredentialsCache:
    """Keeps the last credentials that the client could read."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._current: Credentials | None = None

    async def refresh(self) -> None:
        """Read them. Raises as `KubeClient.credentials`."""
        self._current = await self._client.credentials()

    async def keep_fresh(self) -> None:
        """Read them every minute. A failure leaves the last ones in place."""
        while True:
            await asyncio.sleep(REFRESH_PERIOD)
            with contextlib.suppress(KubeError):
                await self.refresh()

    def current(self) -> Credentials:
        """The last credentials, from any thread; only after `refresh`."""
        assert self._current is not None  # noqa: S101 - `refresh` has returned
        return self._current
