"""The portal in Debian's Chromium: by each role, light and dark, on a phone, by keyboard, live."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from standby.link.messages import WorkReport, WorkState
from standby.vault import overview
from standby.vault.jobs import JobState
from tests.portal.browsing import axe, chromium, opened
from tests.portal.scene import tasks
from tests.portal.test_pages import machine
from tests.vault.served import serving

pytestmark = pytest.mark.slow

PAGES = ("/", "/machines", "/machines/{ldap}", "/machines/{wiki}", "/jobs", "/jobs/{failed}", "/infrastructure",
         "/policies", "/plans", "/plans/new", "/alerts", "/account", "/machines/{wiki}/begin/failover", "/users",
         "/audit")  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def url(day) -> Iterator[str]:
    with serving(day.app) as found:
        yield found


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (360, False), (360, True)])
def test_each_page_is_clean(browser, url, day, width, dark):
    """No finding of axe, no violation of the policy, no request to elsewhere, nothing beside the window."""
    ids = {name: machine(day, name) for name in ("ldap", "wiki")}
    ids["failed"] = overview.jobs(day.vault, state=JobState.FAILED)[0].id
    with opened(browser, url, "ada", width=width, dark=dark) as (page, faults):
        for path in PAGES:
            page.goto(path.format_map(ids))
            assert axe(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
            if path == "/machines/{ldap}":
                expect(page.locator(".chart canvas")).to_have_count(3)
        assert faults == []


def test_the_confirmation_by_keyboard(browser, url, day):
    with opened(browser, url, "olga") as (page, faults):
        page.goto(f"/machines/{machine(day, 'wiki')}")
        page.get_by_role("link", name="Failover", exact=True).focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog", name="Failover: wiki")
        expect(dialog).to_be_visible()
        assert axe(page) == []
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(page.get_by_role("link", name="Failover", exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        confirm = dialog.get_by_label("To confirm, type the machine’s name: wiki")
        confirm.fill("wik")
        page.keyboard.press("Enter")
        expect(dialog.get_by_role("alert")).to_contain_text("not confirmed by the machine's name")
        assert not overview.jobs(day.vault, kind="failover")
        assert all("422" in one for one in faults)


def test_a_job_is_followed_without_reloading(browser, url, day):
    job = next(one for one in overview.jobs(day.vault, state=JobState.IN_PROGRESS) if not one.observed)
    agent = day.agents["kvm-berlin-1"]
    agent.client = httpx.Client(base_url=url)
    with opened(browser, url, "rita") as (page, faults):
        page.goto(f"/jobs/{job.id}")
        page.evaluate("window.here = true")
        expect(page.get_by_role("progressbar")).to_have_attribute("value", "0.3500")
        work = WorkReport(job=job.id, lease=job.lease, state=WorkState.IN_PROGRESS, tasks=tasks(day, 3, 0.8))
        agent.beat(room=0, work=(work,))
        expect(page.get_by_role("progressbar")).to_have_attribute("value", "0.8000")
        agent.beat(
            room=0,
            work=(WorkReport(job=job.id, lease=job.lease, state=WorkState.SUCCEEDED, tasks=tasks(day, 4)),),
        )
        expect(page.locator("h1")).to_contain_text("succeeded")
        assert page.evaluate("window.here")
        assert faults == []
    agent.client.close()
