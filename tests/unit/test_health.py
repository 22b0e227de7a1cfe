"""Health: what the probes say over real HTTP, and what they say when a part is silent."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from gpuid_operator.operator.health import Health, log_loop_lag, serve
from gpuid_operator.operator.variables import SettingsError
from gpuid_operator.telemetry.metrics import Metrics


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def served(health: Health) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    metrics = Metrics()
    metrics.leader.set(1)
    async with (
        serve(health=health, render=metrics.render, port=0) as port,
        aiohttp.ClientSession() as session,
    ):
        yield session, f"http://127.0.0.1:{port}"


async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with session.get(url) as response:
        return response.status, await response.text()


async def test_alive_while_nobody_has_promised_anything() -> None:
    async with served(Health()) as (session, url):
        assert await get(session, f"{url}/healthz") == (200, "ok\n")


async def test_a_silent_part_is_named_and_one_line_each() -> None:
    clock = Clock()
    health = Health(now=clock)
    health.beat("lease", 10)
    health.beat("watch", 60)
    health.beat("loop", 300)
    async with served(health) as (session, url):
        clock.now += 10
        assert await get(session, f"{url}/healthz") == (200, "ok\n")
        clock.now += 51
        status, text = await get(session, f"{url}/healthz")
        assert status == 503
        lease, watch = text.splitlines()
        assert lease.startswith("lease: no heartbeat since 20")
        assert lease.endswith("Z (limit 10s)")
        assert watch.startswith("watch: ")
        health.beat("lease", 10)
        health.retire("watch")
        health.retire("never-there")
        assert await get(session, f"{url}/healthz") == (200, "ok\n")


async def test_ready_with_a_reason() -> None:
    health = Health()
    async with served(health) as (session, url):
        assert await get(session, f"{url}/readyz") == (503, "starting\n")
        health.set_ready("standby")
        assert await get(session, f"{url}/readyz") == (200, "standby\n")
        health.set_unready("first listing of a new leader")
        assert await get(session, f"{url}/readyz") == (503, "first listing of a new leader\n")
        health.set_ready("leader")
        assert await get(session, f"{url}/readyz") == (200, "leader\n")
    assert health.ready == (True, "leader")


async def test_metrics_in_the_format_that_is_asked_for() -> None:
    async with served(Health()) as (session, url):
        async with session.get(f"{url}/metrics") as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert "gpuid_leader 1.0\n" in await response.text()
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with session.get(f"{url}/metrics", headers=accept) as response:
            assert response.headers["Content-Type"].startswith("application/openmetrics-text")
            families = text_string_to_metric_families(await response.text())  # type: ignore[no-untyped-call]
            assert "gpuid_leader" in {family.name for family in families}


async def test_other_paths_and_methods() -> None:
    async with served(Health()) as (session, url):
        assert (await get(session, f"{url}/secret"))[0] == 404
        async with session.post(f"{url}/healthz") as response:
            assert response.status == 405
        async with session.head(f"{url}/healthz") as response:
            assert response.status == 200


async def test_it_answers_on_ipv6_too() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    async with served(Health()) as (session, url):
        assert await get(session, f"{url.replace('127.0.0.1', '[::1]')}/healthz") == (200, "ok\n")


async def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    # Such a machine cannot be had here; this is the question that the standard library asks it.
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    async with served(Health()) as (session, url):
        assert await get(session, f"{url}/healthz") == (200, "ok\n")


async def test_a_port_in_use_is_a_bad_value_of_its_variable() -> None:
    async with serve(health=Health(), render=Metrics().render, port=0) as port:
        with pytest.raises(SettingsError) as caught:
            async with serve(health=Health(), render=Metrics().render, port=port):
                pass
    assert caught.value.variable == "SERVER_PORT"
    assert str(caught.value) == (
        f'SERVER_PORT="{port}" is invalid:'
        " expected a port that this process can listen on (Address already in use)"
    )


async def test_the_port_is_free_afterwards() -> None:
    async with serve(health=Health(), render=Metrics().render, port=0) as port:
        pass
    async with serve(health=Health(), render=Metrics().render, port=port) as again:
        assert again == port


async def test_a_blocked_event_loop_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(log_loop_lag(lag=0.02, period=0.01))
    try:
        # The task sleeps; then the loop is blocked, for real, past its time.
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251 - blocking the loop is what is tested
        while not caplog.records:  # noqa: ASYNC110 - a line of the log has no event
            await asyncio.sleep(0)
    finally:
        task.cancel()
    [record] = caplog.records[:1]
    assert record.message == "event loop blocked"
    assert json.loads(json.dumps(record.__dict__["fields"]))["seconds"] > 0.02
