"""The page of `kubectl gpuid ui` in Chromium, with large and odd fleets from an API server in
memory."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, expect

from gpuid_operator.cli.plugin_clusters import Cluster
from gpuid_operator.cli.ui.command import serving
from tests.support.browser import open_page
from tests.support.kube import INVENTORIES, QUARANTINES, FakeKube, forbidden, server_error
from tests.support.ui_fleet import (
    MOVED,
    condition,
    departed,
    fill,
    fill_racks,
    gpu,
    inventory,
    move,
    store,
    trouble,
)

VIEWS = ("#/", "#/map", "#/nodes", "#/quarantines", "#/sinks")


@asynccontextmanager
async def page_of(*kubes: FakeKube, view: str = "") -> AsyncIterator[Page]:
    clusters = [Cluster(f"c{number}", kube) for number, kube in enumerate(kubes)]
    async with serving(clusters, port=0) as address, open_page(address + view) as page:
        yield page


async def listed(page: Page, clusters: int = 1) -> None:
    await expect(page.locator(".cluster .badge.ok")).to_have_count(clusters)


@pytest.fixture
def kube() -> FakeKube:
    kube = FakeKube()
    fill_racks(kube, 1)
    fill(kube, 40)
    trouble(kube)
    return kube


async def test_the_first_paint_at_5000_nodes() -> None:
    kube = FakeKube()
    fill(kube, 5000)
    clusters = [Cluster("c", kube)]
    async with serving(clusters, port=0) as address, open_page(address) as page:
        await expect(page.locator(".figure").first).to_contain_text("40,000", timeout=60_000)
        began = time.monotonic()
        await page.reload()
        await expect(page.locator(".figure").first).to_contain_text("40,000")
        reloaded = time.monotonic() - began
        paint = await page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]")
        print(f"5,000 nodes: first paint {paint['startTime']:.0f} ms, all counts {reloaded:.2f} s")
        await page.goto(f"{address}#/nodes")
        await expect(page.locator("tbody tr")).to_have_count(100)
        await page.get_by_role("link", name="Next").click()
        await expect(page.get_by_role("navigation", name="Pages")).to_contain_text("Page 2 of 50")
        await page.go_back()
        await expect(page.get_by_role("navigation", name="Pages")).to_contain_text("Page 1 of 50")


async def test_the_map_at_1000_nodes() -> None:
    kube = FakeKube()
    fill(kube, 1000)
    async with page_of(kube) as page:
        await expect(page.locator(".figure").first).to_contain_text("8,000")
        began = time.monotonic()
        await page.get_by_role("link", name="Map", exact=True).click()
        await expect(page.locator(".map[data-built='1000']")).to_be_visible()
        print(f"1,000 nodes: the map is whole after {time.monotonic() - began:.2f} s")
        assert await page.locator(".map .cells i").count() == 8000
        changed = inventory("gpu-node-0005", [gpu(40, state="Lost", chassisSerial="CH000005")])
        store(kube, changed)
        tile = page.locator(".tile", has_text="gpu-node-0005")
        await expect(tile).to_have_attribute("aria-label", re.compile("lost"))
        await expect(tile.locator("i")).to_have_text("✕")


async def test_every_view_has_an_address_and_a_heading(kube: FakeKube) -> None:
    async with page_of(kube) as page:
        await listed(page)
        address = page.url.partition("#")[0]
        for view in (*VIEWS, f"#/gpu/{gpu(0)['serial']}", "#/node/c0/gpu-node-0003", "#/no"):
            await page.goto(address + view)
            await page.reload()
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
        await expect(page.locator("h1")).to_have_text("No such view")
        await page.go_back()
        await expect(page.locator("h1")).to_have_text("gpu-node-0003")
        await expect(page.get_by_role("table", name="Conditions")).to_contain_text("GPUUnhealthy")


async def test_counts_lead_to_their_nodes(kube: FakeKube) -> None:
    async with page_of(kube) as page:
        await listed(page)
        await page.get_by_role("link", name=re.compile("Not read: DriverNotLoaded")).click()
        await expect(page.locator("tbody tr")).to_have_count(1)
        await expect(page.locator("tbody")).to_contain_text("gpu-node-0021")
        await page.get_by_role("link", name="Remove the filter Condition").click()
        await expect(page.locator(".lead")).to_have_text("57 nodes of 58")
        await page.get_by_role("link", name="Remove the filter State").click()
        await expect(page.locator(".lead")).to_have_text("58 nodes")
        await page.get_by_role("link", name="Quarantines").click()
        await expect(page.get_by_role("table", name="Quarantines")).to_contain_text("Xid 79")


async def test_departed_nodes_are_not_wrong_and_in_no_count_of_what_is_there() -> None:
    kube = FakeKube()
    fill(kube, 5)
    waiting = {"name": "db", "type": "http", "deliveredSequence": 1, "pending": 1}
    for number in range(2):
        store(kube, departed(f"old-{number}", [gpu(700_000 + number, chassisSerial="OLD")]))
    store(kube, departed("old-2", [gpu(700_002)], sinks=[waiting]))
    async with page_of(kube) as page:
        await listed(page)
        figures = ["40GPUs", "5nodes present", "3nodes departed", "0GPUs in quarantine", "1cluster"]
        await expect(page.locator(".figure")).to_have_text(figures)
        await expect(page.locator(".cluster")).to_contain_text("5 nodes")
        await expect(page.locator(".issue")).to_have_text(["! 1 nodewith sinks behind"])
        for title in ("product", "driver"):
            row = page.get_by_role("table", name=f"Nodes by {title}").locator("tbody tr")
            await expect(row).to_contain_text("5")
        conditions = page.get_by_role("table", name="Nodes by condition").locator("tbody tr")
        await expect(conditions).to_have_text(["Ready5––", "Healthy5––", "Delivered5––"])
        await page.get_by_role("link", name="570.86.15").click()
        await expect(page.locator(".lead")).to_have_text("5 nodes of 8")
        await page.get_by_role("link", name="Nodes", exact=True).click()
        said = page.locator("tbody tr", has_text="old-")
        await expect(said.locator(".badge.quiet")).to_have_count(3)
        await expect(said.locator(".badge.bad")).to_have_text(["✕ Delivered: Pending"])
        await page.get_by_role("link", name="Map", exact=True).click()
        lead = page.locator(".lead")
        await expect(lead).to_have_text("5 chassis, 5 nodes, 40 GPUs; 3 departed nodes")
        await expect(page.locator(".tile.gone")).to_have_count(3)
        store(kube, departed("gpu-node-0004", [gpu(32, chassisSerial="CH000004")]))
        await expect(lead).to_have_text("4 chassis, 4 nodes, 32 GPUs; 4 departed nodes")


async def test_a_sink_that_is_behind_leads_to_its_nodes() -> None:
    one, two = FakeKube(), FakeKube()
    move(one, two)
    async with page_of(one, two) as page:
        await listed(page, 2)
        await page.get_by_role("link", name=re.compile("with sinks behind")).click()
        await expect(page.get_by_role("table", name="By sink")).to_contain_text("audit")
        await page.get_by_role("link", name="gpu-node-0007").click()
        await expect(page.get_by_role("table", name="Sinks")).to_contain_text("503 Service")
        await expect(page.get_by_role("table", name="Checks")).to_contain_text("busbw 412 GB/s")


async def test_the_keyboard_is_enough() -> None:
    one, two = FakeKube(), FakeKube()
    fill(one, 30)
    move(one, two)
    async with page_of(one, two) as page:
        await listed(page, 2)
        await page.keyboard.press("/")
        await page.keyboard.type("gpu-node-000")
        await expect(page.get_by_role("option")).to_have_count(11)
        await page.keyboard.press("ArrowDown")
        await expect(page.locator("#hit-1")).to_have_attribute("aria-selected", "true")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("gpu-node-0001")
        await page.keyboard.press("/")
        await page.keyboard.type(MOVED["serial"][:-1])
        await expect(page.get_by_role("option")).to_have_count(1)
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text(MOVED["serial"])
        await expect(page.locator(".timeline .lane")).to_have_count(3)
        await page.go_back()
        await expect(page.locator("h1")).to_have_text("gpu-node-0001")
        await page.get_by_role("link", name="Map", exact=True).focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Map")
        while not await page.locator(".tile:focus").count():
            await page.keyboard.press("Tab")
        first = await page.locator(".tile:focus").get_attribute("data-id")
        await page.keyboard.press("ArrowRight")
        await page.keyboard.press("ArrowDown")
        assert await page.locator(".tile:focus").get_attribute("data-id") != first
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_contain_text("gpu-node-")


async def test_a_list_keeps_the_focus_when_something_changes(kube: FakeKube) -> None:
    async with page_of(kube, view="#/nodes") as page:
        await listed(page)
        link = page.get_by_role("link", name="gpu-node-0004", exact=True)
        await link.focus()
        store(kube, inventory("gpu-node-0005", []))
        await expect(page.locator("#live")).to_have_text("gpu-node-0005 changed")
        await expect(link).to_be_focused()


async def test_values_of_the_cluster_are_text() -> None:
    kube = FakeKube()
    bad = "<img src=x onerror=document.title='owned'>"
    part = gpu(1, product=bad, chassisSerial="<b>chassis</b>")
    said = condition("Ready", "False", "Bad", bad)
    facts: dict[str, Any] = {
        "node": {"name": "n", "machine": bad},
        "product": bad,
        "driverVersion": bad,
    }
    store(kube, inventory("n", [part], conditions=[said], **facts))
    async with page_of(kube) as page:
        await listed(page)
        await expect(page.get_by_role("table", name="Nodes by product")).to_contain_text(bad)
        address = page.url
        for view in ("#/map", "#/nodes", "#/node/c0/n", f"#/gpu/{part['serial']}"):
            await page.goto(address + view)
            await expect(page.locator("h1")).to_be_visible()
            await expect(page.locator("[aria-busy]")).to_have_count(0)
        await expect(page.locator("main img, main b")).to_have_count(0)
        assert await page.title() != "owned"


async def test_an_empty_fleet_and_missing_rights_are_said() -> None:
    empty, closed = FakeKube(), FakeKube()
    for path in (INVENTORIES, QUARANTINES):
        closed.fail("GET", path, forbidden(), times=1000)
    async with page_of(empty) as page:
        await expect(page.locator("main")).to_contain_text("No node with GPUs was found.")
    async with page_of(empty, closed) as page:
        await expect(page.locator("#clusters")).to_contain_text("no permission")
        await expect(page.locator("#clusters")).to_contain_text("grant the verbs get and list")
        await expect(page.locator("main")).to_contain_text("No cluster could be listed")


async def test_loading_an_error_and_a_lost_connection_are_said() -> None:
    slow, broken = FakeKube(), FakeKube()
    fill(slow, 3)
    answered = asyncio.Event()
    slow.fail("GET", INVENTORIES, until=answered)
    broken.fail("GET", INVENTORIES, server_error(), times=1000)
    clusters = [Cluster("slow", slow), Cluster("broken", broken)]
    server = AsyncExitStack()
    address = await server.enter_async_context(serving(clusters, port=0))
    async with server, open_page(address, expected="net::ERR_") as page:
        strip = page.locator(".cluster")
        await expect(page.locator("main")).to_contain_text("The nodes are being listed…")
        await expect(strip.filter(has_text="slow")).to_contain_text("loading")
        error = strip.filter(has_text="broken")
        await expect(error.locator(".badge.bad")).to_contain_text("error")
        await expect(error.locator(".why")).to_contain_text("unable to handle the request")
        answered.set()
        await expect(strip.filter(has_text="slow").locator(".badge.ok")).to_contain_text("live")
        await expect(page.locator(".figure").first).to_contain_text("24")
        await expect(error.locator(".badge.bad")).to_contain_text("error")
        await server.aclose()
        await expect(strip.filter(has_text="not connected")).to_contain_text("has ended")
        await expect(page.locator(".figure").first).to_contain_text("24")


async def test_light_and_dark_are_chosen(kube: FakeKube) -> None:
    async with page_of(kube) as page:
        await listed(page)
        colour = "getComputedStyle(document.body).backgroundColor"
        light = await page.evaluate(colour)
        await page.emulate_media(color_scheme="dark")
        dark = await page.evaluate(colour)
        assert light != dark
        button = page.get_by_role("button", name=re.compile("Theme"))
        await button.click()
        assert await page.evaluate(colour) == light
        await page.reload()
        await expect(button).to_have_text("Theme: light")
        assert await page.evaluate(colour) == light
