"""A release of HEAD, made twice, and published to two registries that nothing else is reached from.

The build fetches everything from the network. After it, every program runs in a network namespace
with only a loopback device: publishing and verifying need nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuid_operator.localcluster.ports import free_ports
from gpuid_operator.localcluster.waiting import wait_for
from tests.release.published import ROOT, Island, Release, clone, make, new_key
from tests.support.gotools import go_tool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def island() -> Iterator[Island]:
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("a network of one's own needs root, util-linux and iproute2")
    island = Island()
    yield island
    island.end()


def _wait(island: Island, address: str) -> None:
    def answers() -> bool:
        return island.tool("crane", "catalog", address, check=False).returncode == 0

    wait_for(f"the registry {address}", answers, timeout=30)


@pytest.fixture(scope="session")
def registries(island: Island) -> Iterator[list[str]]:
    """Two empty registries, as host:port."""
    running, addresses = [], []
    for port in free_ports(2):
        serve = ("registry", "serve", "--address", f"127.0.0.1:{port}")
        running.append(island.start(go_tool("crane"), *serve))
        addresses.append(f"localhost:{port}")
    for address in addresses:
        _wait(island, address)
    yield addresses
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def release(
    island: Island, registries: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Release:
    """`make release` of HEAD: what needs the network before, the rest on the island."""
    folder = tmp_path_factory.mktemp("release")
    copy = clone(ROOT, folder / "clone")
    targets = f"REGISTRY={','.join(f'{address}/team' for address in registries)}"
    done = subprocess.run(
        make("dist", targets), cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    key = new_key(island, folder / "key")
    arguments = make("-o", "dist", "release", targets, f"KEY={key}")
    island.run("env", "--chdir", copy, *arguments)
    return Release(island, copy / "dist", copy, key, registries)
