"""Runs the page until Ctrl-C."""

from __future__ import annotations

import asyncio
import secrets
import signal
import webbrowser
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import click
from aiohttp import web

from gpuid_operator.cli.plugin_clusters import Cluster, Clusters, say
from gpuid_operator.cli.ui.server import Server
from gpuid_operator.cli.ui.source import follow
from gpuid_operator.cli.ui.state import FleetState


async def ui(clusters: Clusters, *, port: int, browser: bool) -> bool:
    """Serve the page; return whether it could be served."""
    for problem in clusters.problems:
        say(f"warning: {problem}")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        async with serving(clusters.reached, port=port) as address:
            click.echo(address)
            say("keep this address to yourself: it shows what you may read; Ctrl-C ends the page")
            if browser:
                await asyncio.to_thread(webbrowser.open, address)
            await stop.wait()
    except OSError as error:
        clusters.problems.append(f"failed to listen on port {port}: {error.strerror}")
        return False
    return True


@asynccontextmanager
async def serving(clusters: Sequence[Cluster], *, port: int) -> AsyncIterator[str]:
    """Serve the page on 127.0.0.1, on a free port if it is 0; yields its address."""
    token = secrets.token_urlsafe(24)
    state = FleetState([cluster.name for cluster in clusters])
    server = Server(clusters, state, token=token)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        server.port = runner.addresses[0][1]
        async with asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(follow(cluster, state)) for cluster in clusters]
            yield f"http://127.0.0.1:{server.port}/{token}/"
            for task in following:
                task.cancel()
    finally:
        await runner.cleanup()
