"""The server behind `kubectl gpuid ui`: who may ask, and what it answers."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from click.testing import CliRunner
from yarl import URL

from gpuid_operator.cli.plugin import PROGRAM, cli
from gpuid_operator.cli.plugin_clusters import Cluster, Clusters
from gpuid_operator.cli.ui import command
from gpuid_operator.cli.ui.command import serving
from tests.support.kube import INVENTORIES, FakeKube, forbidden
from tests.support.ui_fleet import MOVED, fill, gpu, inventory, move, store

ROOT = Path(__file__).parents[2]


@pytest.fixture
def kubes() -> list[FakeKube]:
    kubes = [FakeKube(), FakeKube()]
    fill(kubes[0], 3)
    move(*kubes)
    return kubes


@asynccontextmanager
async def browser(*kubes: FakeKube) -> AsyncIterator[tuple[aiohttp.ClientSession, URL]]:
    clusters = [Cluster(f"c{number}", kube) for number, kube in enumerate(kubes)]
    async with serving(clusters, port=0) as address, aiohttp.ClientSession() as session:
        yield session, URL(address)


async def get(session: aiohttp.ClientSession, url: URL, **headers: str) -> tuple[int, str]:
    async with session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def get_json(session: aiohttp.ClientSession, url: URL) -> Any:
    status, text = await get(session, url)
    assert status == 200, text
    return orjson.loads(text)


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, Any]]:
    kind = ""
    # Not by lines: a snapshot is longer than the longest line that aiohttp reads.
    rest = b""
    async for chunk in answer.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            name, _, value = line.partition(b": ")
            if name == b"event":
                kind = value.decode()
            elif name == b"data":
                yield kind, orjson.loads(value)


async def test_the_page_and_its_files_come_with_strict_headers(kubes: list[FakeKube]) -> None:
    async with browser(*kubes) as (session, url):
        assert url.host == "127.0.0.1"
        assert len(url.path) > 32
        files = {"": "html", "style.css": "css", "app.js": "javascript", "icon.svg": "svg"}
        for name, kind in files.items():
            async with session.get(url / name if name else url) as answer:
                assert answer.status == 200
                assert kind in answer.content_type
                policy = answer.headers["Content-Security-Policy"]
                assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
                assert "unsafe" not in policy
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
        for name in ("server.py", "nothing", "..%2fserver.py"):
            assert (await get(session, URL(f"{url}{name}", encoded=True)))[0] == 404


@pytest.mark.parametrize(
    "host", ["example.com", "127.0.0.1", "localhost:1", "127.0.0.1.nip.io", ""]
)
async def test_a_forged_host_is_refused(host: str, kubes: list[FakeKube]) -> None:
    async with browser(*kubes) as (session, url):
        for path in ("", "events", "api/search", "api/gpu", "style.css"):
            status, text = await get(session, URL(f"{url}{path}"), Host=host)
            assert status == 403
            assert "127.0.0.1 and localhost only" in text
        assert (await get(session, url, Host=f"localhost:{url.port}"))[0] == 200


async def test_without_the_token_there_is_a_sentence_and_nothing_else(
    kubes: list[FakeKube],
) -> None:
    async with browser(*kubes) as (session, url):
        for path in (
            "/",
            "/wrong/",
            "/wrong/events",
            "/api/search",
            f"{url.path[:-2]}/",
            "/%C3%A4/",
        ):
            async with session.get(url.origin().join(URL(path, encoded=True))) as answer:
                assert answer.status == 403
                assert "Open the address that `kubectl gpuid ui` printed" in await answer.text()
                assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


async def test_nothing_can_be_written(kubes: list[FakeKube]) -> None:
    async with browser(*kubes) as (session, url):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            for path in ("api/gpu", "events"):
                async with session.request(method, url / path) as answer:
                    assert answer.status == 405
        await get_json(session, url / "api/gpu" % {"id": MOVED["serial"]})
    assert {one.method for kube in kubes for one in kube.requests} == {"GET", "WATCH"}


async def test_a_stream_begins_with_everything_and_goes_on_with_changes(
    kubes: list[FakeKube],
) -> None:
    async with browser(*kubes) as (session, url), session.get(url / "events") as answer:
        stream = events(answer)
        kind, snapshot = await anext(stream)
        assert kind == "snapshot"
        nodes = {(one["cluster"], one["name"]) for one in snapshot["nodes"]}
        while len(nodes) < 6:
            kind, delta = await anext(stream)
            assert kind == "delta"
            nodes |= {(one["cluster"], one["name"]) for one in delta["nodes"]}
        assert ("c1", "gpu-node-0007") in nodes
        store(kubes[0], inventory("late", [gpu(5)]))
        kubes[0].remove(f"{INVENTORIES}/gpu-node-0000")
        added, gone = set[str](), list[Any]()
        while not (added and gone):
            _, delta = await anext(stream)
            added |= {one["name"] for one in delta["nodes"] if one["name"] == "late"}
            gone += delta["gone"]
        assert gone == [["nodes", "c0", "gpu-node-0000"]]


async def test_a_gpu_has_its_placements_in_all_clusters(kubes: list[FakeKube]) -> None:
    async with browser(*kubes) as (session, url):
        found = await get_json(session, url / "api/gpu" % {"id": MOVED["serial"]})
        assert [(one["cluster"], one["node"], one["present"]) for one in found["placements"]] == [
            ("c1", "gpu-node-0007", True),
            ("c0", "gpu-node-0101", False),
            ("c0", "gpu-node-0100", False),
        ]
        times = [one["time"] for one in found["history"]]
        assert times == sorted(times)
        assert len(times) == 7
        assert found["problems"] == []
        none = await get_json(session, url / "api/gpu" % {"id": "nothing"})
        assert none["placements"] == none["history"] == []


async def test_a_cluster_that_fails_does_not_hide_the_others(kubes: list[FakeKube]) -> None:
    async with browser(*kubes) as (session, url):
        kubes[0].fail("GET", INVENTORIES, forbidden(), times=100)
        found = await get_json(session, url / "api/gpu" % {"id": MOVED["serial"]})
        assert [one["cluster"] for one in found["placements"]] == ["c1"]
        (problem,) = found["problems"]
        assert "context c0: permission denied" in problem


async def test_a_node_has_its_status_and_its_placements(kubes: list[FakeKube]) -> None:
    async with browser(*kubes) as (session, url):
        ask = url / "api/node"
        found = await get_json(session, ask % {"cluster": "c1", "node": "gpu-node-0007"})
        assert found["status"]["checks"][0]["name"] == "nccl"
        assert [one["present"] for one in found["placements"]].count(False) == 1
        assert (await get_json(session, ask % {"cluster": "c1", "node": "no"}))["status"] is None
        odd = await get_json(session, ask % {"cluster": "c1", "node": "../x"})
        assert odd["status"] is None
        assert (await get(session, ask % {"cluster": "other", "node": "n"}))[0] == 404


async def test_search_answers_for_all_clusters(kubes: list[FakeKube]) -> None:
    async with browser(*kubes) as (session, url), asyncio.timeout(10):
        hits: list[dict[str, Any]] = []
        while not hits or hits[0]["count"] < 3:
            hits = await get_json(session, url / "api/search" % {"q": MOVED["serial"]})
        assert {one["cluster"] for one in hits[0]["places"]} == {"c0", "c1"}


async def test_the_command_prints_the_address_and_ends_with_a_signal(
    kubes: list[FakeKube], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    def open_browser(address: str) -> bool:
        opened.append(address)
        signal.raise_signal(signal.SIGTERM)
        return True

    monkeypatch.setattr("webbrowser.open", open_browser)
    clusters = Clusters(several=False)
    clusters.reached = [Cluster("c", kubes[0])]
    assert await command.ui(clusters, port=0, browser=True)
    assert capsys.readouterr().out.split() == opened


async def test_a_port_that_is_taken_is_a_problem(kubes: list[FakeKube]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        clusters = Clusters(several=False)
        clusters.reached = [Cluster("c", kubes[0])]
        assert not await command.ui(clusters, port=port, browser=False)
        assert f"failed to listen on port {port}" in clusters.problems[0]


def test_the_help_says_what_it_is() -> None:
    result = CliRunner().invoke(cli, ["ui", "--help"], prog_name=PROGRAM)
    assert "read-only page" in result.stdout
    assert CliRunner().invoke(cli, ["ui", "--port", "70000"], prog_name=PROGRAM).exit_code == 2


def test_the_wheel_has_the_page(tmp_path: Path) -> None:
    build = ("-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path))
    subprocess.run([sys.executable, *build], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if "/ui/static/" in name}
    static = ROOT / "gpuid_operator" / "cli" / "ui" / "static"
    assert packed == {file.relative_to(ROOT).as_posix() for file in static.iterdir()}
    assert len(packed) > 5
