"""Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, Playwright, Route, async_playwright, expect
from yarl import URL

# For a machine that is busy with other tests; nothing waits longer than it has to.
expect.set_options(timeout=30_000)


async def launch(playwright: Playwright) -> Browser:
    """Start Chromium; the tests run as root and with a small /dev/shm."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed")
    return await playwright.chromium.launch(
        executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"]
    )


@asynccontextmanager
async def open_page(address: str, *, expected: str = "(?!)", **options: Any) -> AsyncIterator[Page]:
    """The page at an address. At the end nothing was asked of another origin, and nothing failed:
    no script, and nothing that the Content-Security-Policy forbids; `expected` is a pattern of the
    errors that a test provokes."""
    elsewhere: list[str] = []
    problems: list[str] = []

    async def judge(route: Route) -> None:
        if URL(route.request.url).origin() == URL(address).origin():
            await route.continue_()
        else:
            elsewhere.append(route.request.url)
            await route.abort()

    async with async_playwright() as playwright:
        browser = await launch(playwright)
        context = await browser.new_context(**options)
        await context.route("**/*", judge)
        page = await context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda said: problems.append(said.text) if said.type == "error" else None,
        )
        await page.goto(address)
        yield page
        await browser.close()
    assert elsewhere == []
    assert [one for one in problems if not re.search(expected, one)] == []
