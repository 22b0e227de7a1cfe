"""The credentials for Kopf are refreshed every minute, and survive an API server that is away."""

from __future__ import annotations

import asyncio

from gpuid_operator.kube.credentials import Credentials
from gpuid_operator.operator.credentials import CredentialsCache
from tests.support.kube import FakeKube, unreachable


class Rotating(FakeKube):
    """A client whose token changes at each read, except where reading fails."""

    reads = 0
    fails = False

    async def credentials(self) -> Credentials:
        self.reads += 1
        if self.fails:
            raise unreachable()
        return Credentials(server="https://kube", authorization=f"Bearer {self.reads}")


async def test_credentials_are_refreshed_each_minute_and_kept_over_a_failure() -> None:
    client = Rotating()
    cache = CredentialsCache(client)
    await cache.refresh()
    assert cache.current().authorization == "Bearer 1"
    fresh = asyncio.create_task(cache.keep_fresh())
    await asyncio.sleep(61)
    assert cache.current().authorization == "Bearer 2"
    client.fails = True
    await asyncio.sleep(60)
    assert (client.reads, cache.current().authorization) == (3, "Bearer 2")
    client.fails = False
    await asyncio.sleep(60)
    assert cache.current().authorization == "Bearer 4"
    fresh.cancel()
