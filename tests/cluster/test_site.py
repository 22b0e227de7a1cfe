"""The site of the documentation in Chromium."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import expect

from tests.support.browser import open_page

ROOT = Path(__file__).parents[2]
PAGES = ("architecture.html", "install.html", "ui.html", "runbooks/index.html")


async def test_a_reader_of_the_site_asks_no_other_host(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    site: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "site.py"))
    site["stage"](tmp_path)
    assert site["build"](tmp_path) == 0, capfd.readouterr()
    application = web.Application()
    application.router.add_static("/", tmp_path / "site")
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        address = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        async with open_page(f"{address}index.html") as page:
            for name in PAGES:
                await page.wait_for_load_state("networkidle")
                await page.goto(address + name)
                await expect(page.locator("h1")).to_be_visible()
            await page.wait_for_load_state("networkidle")
            await page.goto(f"{address}architecture.html")
            picture = page.get_by_role("img", name="NodeReconciler")
            await expect(picture).to_be_visible()
            assert await picture.evaluate("image => image.naturalWidth") > 0
    finally:
        await runner.cleanup()
