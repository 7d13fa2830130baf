"""A real browser for the tests marked `browser`; where there is none they are deselected, with the reason said.

The browser is a Chromium found on the machine (WEIGHBRIDGE_TEST_BROWSER, or on the PATH), driven by playwright.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.console.fake_gateway import FakeGateway

if TYPE_CHECKING:
    from playwright.async_api import BrowserContext, Page

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Tabs share a process: one that starts costs more than what most tests do in it.
    "--renderer-process-limit=1",
)


def browser_path() -> str | None:
    """The browser to use, if the machine has one."""
    names = (
        os.environ.get("WEIGHBRIDGE_TEST_BROWSER"),
        "chromium",
        "chromium-browser",
        "google-chrome",
        "chrome",
    )
    return next((path for name in names if name and (path := shutil.which(name))), None)


def why_no_browser() -> str | None:
    """Why browser tests cannot run here; None where they can."""
    if browser_path() is None:
        return "no Chromium on this machine; install one, or name it in WEIGHBRIDGE_TEST_BROWSER"
    if find_spec("playwright") is None:
        return "the package playwright is not installed"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if why_no_browser() is None:
        return
    without = [item for item in items if item.get_closest_marker("browser") is not None]
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if (reason := why_no_browser()) is not None:
        terminalreporter.write_line(f"Deselected every test marked `browser`: {reason}.", yellow=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def window() -> AsyncIterator[BrowserContext]:
    """A window of the browser. What the page keeps it keeps in its tab, so tests share it and each opens a tab."""
    # Imports where they are used: it may not be installed.
    from playwright.async_api import async_playwright, expect

    # A busy machine may take longer than the 5 s that are assumed otherwise; no test passes by waiting.
    expect.set_options(timeout=30_000)

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path(), args=list(_FLAGS))
        context = await browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
        # As long as one tab is open, the process of the tabs stays.
        await context.new_page()
        yield context
        await browser.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _listening() -> AsyncIterator[FakeGateway]:
    gateway = FakeGateway()
    await gateway.start()
    yield gateway
    await gateway.stop()


@pytest.fixture
def gateway(_listening: FakeGateway) -> FakeGateway:
    """The scripted gateway, with nothing scripted yet."""
    _listening.reset()
    return _listening


@pytest_asyncio.fixture(loop_scope="module")
async def page(window: BrowserContext, gateway: FakeGateway) -> AsyncIterator[Page]:
    """A fresh tab on the playground; the test fails when the page logs an error or breaks its policy."""
    tab = await window.new_page()
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    # Chromium itself logs every answer of 4xx and 5xx; those are what some tests are about.
    tab.on(
        "console",
        lambda message: (
            complaints.append(message.text)
            if message.type == "error" and "Failed to load resource" not in message.text
            else None
        ),
    )
    tab.set_default_timeout(30_000)
    await tab.goto(gateway.url)
    yield tab
    await tab.close()
    assert complaints == []
