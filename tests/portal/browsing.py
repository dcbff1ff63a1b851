"""The portal on a real server, and Debian's Chromium before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.portal.scene import PASSWORD

CHROMIUM: Final = "/usr/bin/chromium"
AXE: Final = Path(__file__).parents[2] / ".node/node_modules/axe-core/axe.min.js"


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        yield browser
        browser.close()


class Watched(NamedTuple):
    """A page, and what it said and asked for that it should not have."""

    page: Page
    faults: list[str]


@contextmanager
def opened(
    browser: Browser, url: str, user: str = "", *, width: int = 1280, dark: bool = False, script: bool = True
) -> Iterator[Watched]:
    """Logged in as `user`, if one is named."""
    context: BrowserContext = browser.new_context(
        base_url=url,
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
        reduced_motion="reduce",
        timezone_id="Europe/Berlin",
        locale="en-GB",
    )
    context.set_default_timeout(15_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda told: faults.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: faults.append(asked.url) if not _inside(asked.url, url) else None)
    if user:
        page.goto("/login")
        page.get_by_label("Name").fill(user)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{url}/")
    yield Watched(page, faults)
    context.close()


def _inside(asked: str, url: str) -> bool:
    return asked.startswith((url, "data:", "blob:"))


def axe(page: Page) -> list[str]:
    """What axe-core finds, one line each; loaded past the page's own policy."""
    if not page.evaluate("typeof window.axe !== 'undefined'"):
        page.evaluate(AXE.read_text())
    found = page.evaluate(
        "axe.run(document, {resultTypes: ['violations'], rules: {'color-contrast-enhanced': {enabled: false}}})"
    )
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
