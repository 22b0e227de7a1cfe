"""`kubectl gpuid ui` on two clusters: a real API server, an operator, and Chromium."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import yaml
from playwright.async_api import expect

from gpuid_operator.localcluster import LocalCluster
from tests.cluster.plugin.inventories import at, entry, gpu, put
from tests.support.browser import open_page
from tests.support.operators import Operator, eventually, read_well, status
from tests.support.smi_fixtures import machine, swapped


@pytest.fixture(scope="module")
def other(local_cluster: Callable[..., LocalCluster]) -> Iterator[LocalCluster]:
    cluster = local_cluster(nodes=0)
    yield cluster
    cluster.down()


@pytest.fixture
def kubeconfig(fleet: LocalCluster, other: LocalCluster, tmp_path: Path) -> Path:
    """One file with the contexts `east` and `west`."""
    merged: dict[str, object] = {"apiVersion": "v1", "kind": "Config"}
    merged |= {"clusters": [], "users": [], "contexts": [], "current-context": "east"}
    for name, cluster in (("east", fleet), ("west", other)):
        content = yaml.safe_load(cluster.kubeconfig.read_text())
        for kind in ("clusters", "users"):
            merged[kind] += [content[kind][0] | {"name": name}]  # type: ignore[operator]
        context = {"name": name, "context": {"cluster": name, "user": name}}
        merged["contexts"] += [context]  # type: ignore[operator]
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(merged))
    return file


@asynccontextmanager
async def running(kubeconfig: Path) -> AsyncIterator[str]:
    """The command as users start it; yields the address that it prints."""
    command = "from gpuid_operator.cli.plugin import main; main()"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", command, "ui", "--contexts", "east,west", "--no-browser"),
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    try:
        yield line.decode().strip()
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = await process.communicate()
    assert process.returncode == 0, errors
    assert b"Traceback" not in errors


async def test_a_moved_gpu_is_found_and_a_swap_is_seen_live(
    fleet: LocalCluster, other: LocalCluster, operator: Operator, node: str, kubeconfig: Path
) -> None:
    serial = status(fleet, node)["serials"][0]
    uuid = next(one["uuid"] for one in status(fleet, node)["gpus"] if one["serial"] == serial)
    part = gpu(uuid, serial)
    for name, (begin, end) in {"w-1": (1, 5), "w-2": (7, 9)}.items():
        history = [entry(begin, "GPUAdded", part), entry(end, "GPURemoved", part)]
        put(other, name, gpus=[gpu(f"GPU-{name}", name)], history=history)
    async with running(kubeconfig) as address, open_page(address) as page:
        await expect(page.locator(".cluster .badge.ok")).to_have_count(2)
        await page.keyboard.press("/")
        await page.keyboard.type(serial)
        await expect(page.get_by_role("option").first).to_contain_text(f"now on east / {node}")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text(serial)
        lanes = page.locator(".timeline .lane")
        await expect(lanes).to_have_text(["west / w-1", "west / w-2", f"east / {node}"])
        table = page.get_by_role("table", name="Placements of")
        await expect(table).to_contain_text(at(5).replace("T", " ").replace("Z", " UTC"))
        await expect(table).to_contain_text("now")

        await page.goto(f"{address}#/node/east/{node}")
        await expect(page.locator("main")).to_contain_text(serial)
        fleet.write_smi(node, swapped(machine(node), 0, "spare"))
        container = await asyncio.to_thread(fleet.restart_plugin, node)

        def read() -> float:
            assert status(fleet, node)["source"]["containerID"] == container
            return time.monotonic()

        written = asyncio.create_task(asyncio.to_thread(eventually, read))
        await expect(page.get_by_role("table", name="History")).to_contain_text(
            "GPURemoved", timeout=30_000
        )
        shown = time.monotonic()
        print(f"a swap is on the page {shown - await written:+.2f} s after it was seen in the API")
        await asyncio.to_thread(eventually, lambda: read_well(fleet, node))
