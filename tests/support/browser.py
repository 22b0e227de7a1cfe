"""Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import shutil

import pytest
from playwright.async_api import Browser, Playwright


async def launch(playwright: Playwright) -> Browser:
    """Start Chromium; the tests run as root and with a small /dev/shm."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("chromium is not installed")
    return await playwright.chromium.launch(
        executable_path=found,
        args=["--no-sandbox", "--disable-dev-shm-usage"],
    )
