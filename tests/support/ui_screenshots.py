"""Takes the pictures of `kubectl gpuid ui` in docs/images, light and dark, with Chromium."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final, Literal

from playwright.async_api import Browser, async_playwright, expect

from gpuid_operator.cli.plugin_clusters import Cluster
from gpuid_operator.cli.ui.command import serving
from tests.support import ui_fleet
from tests.support.browser import launch

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
VIEWS: Final = {
    "overview": ("#/", "h1"),
    "map": ("#/map", ".map[data-built]"),
    "gpu": (f"#/gpu/{ui_fleet.MOVED['serial']}", ".timeline svg"),
    "node": ("#/node/eu-west/gpu-node-0007", ".timeline svg"),
}


async def main() -> None:
    one, two = ui_fleet.pictured()
    IMAGES.mkdir(exist_ok=True)
    clusters = [Cluster("us-east", one), Cluster("eu-west", two)]
    async with serving(clusters, port=0) as address, async_playwright() as playwright:
        browser = await launch(playwright)
        for scheme in ("light", "dark"):
            await _take(browser, address, scheme)
        await browser.close()


async def _take(browser: Browser, address: str, scheme: Literal["light", "dark"]) -> None:
    page = await browser.new_page(
        viewport={"width": 1280, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    for name, (view, shown) in VIEWS.items():
        await page.goto(address + view)
        await page.wait_for_selector(shown)
        await expect(page.locator(".cluster .badge.ok")).to_have_count(2)
        await page.screenshot(path=IMAGES / f"ui-{name}-{scheme}.png")
    await page.close()


if __name__ == "__main__":
    asyncio.run(main())
