"""The portal in a real browser, with a real agent on a host of its own network, and a real machine."""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from playwright.sync_api import expect

from standby.clock import SystemClock
from standby.objects.directory import DirectoryStore
from standby.portal.pages import attach
from standby.vault import access, catalogue, heartbeat, hosts, ticks
from standby.vault.api.app import create_app
from standby.vault.core import Actor, Vault
from standby.vault.database import Database
from standby.vault.jobs import Role
from standby.vault.server import Address, Server
from standby.vault.tls import identity
from tests.agent.test_vault_agent import VaultAgent
from tests.hypervisor.processes import wait_for
from tests.portal.browsing import chromium
from tests.replication.site import noise, write
from tests.support.hosts import STORE, Network, NoNamespaces

pytestmark = pytest.mark.slow

PASSWORD = "correct horse"
SLOW = 60_000
"""Milliseconds for what a real agent does."""


class Here:
    """A vault on a network that a host may be cut off from, served by this process."""

    def __init__(self, folder: Path) -> None:
        clock = SystemClock()
        database = Database(f"sqlite:///{folder / 'vault.sqlite'}")
        database.migrate()
        self.vault = Vault(database, clock)
        user = access.new_user(self.vault, access.console("tests"), "anna", Role.ADMINISTRATOR, PASSWORD)
        self.anna = Actor(user.name, Role.ADMINISTRATOR, "portal", user.id)
        hosts.new_site(self.vault, self.anna, "Berlin")
        catalogue.new_policy(self.vault, self.anna, "each second", {"frequency": 1, "reserve": 0})
        own = identity(folder, [STORE], clock.now())
        self.server = Server(Address(STORE, 0), certificate=own.certificate, key=own.key)
        self.url = f"https://{STORE}:{self.server.port}"
        web = create_app(self.vault, url=self.url, authority=own.authority)
        attach(web)
        self.server.start(web)
        self._authority = own.authority

    def key_file(self, folder: Path) -> Path:
        key = hosts.new_key(self.vault, self.anna, "Berlin", self.url, self._authority)
        path = folder / "vault.key"
        path.write_text(json.dumps({name: getattr(key, name) for name in key.__struct_fields__}))
        return path

    def close(self) -> None:
        self.server.close()
        self.vault.database.close()


@pytest.fixture
def network():
    try:
        network = Network()
    except NoNamespaces as why:
        pytest.skip(f"no network namespaces here: {why}")
    yield network
    network.close()


@pytest.fixture
def here(network, tmp_path, monkeypatch):
    # Silence is told after 90 s; here after 4.
    monkeypatch.setattr(ticks, "SILENT", ticks.timedelta(seconds=4))
    monkeypatch.setattr(ticks, "EVERY", 0.5)
    monkeypatch.setattr(heartbeat, "EVERY", 1.0)
    with closing(Here(tmp_path)) as here:
        yield here


@pytest.fixture
def agent(here):
    folder = Path(tempfile.mkdtemp(prefix="sr-"))
    DirectoryStore(folder / "store", create=True)
    catalogue.new_store(here.vault, here.anna, "near", str(folder / "store"))
    agent = VaultAgent(folder, here)
    yield agent
    agent.close()
    shutil.rmtree(folder)


def points(agent) -> int:
    return len(list((agent.folder / "store").rglob("points/*")))


def test_protected_in_the_portal_cut_off_told_truthfully_and_back(network, here, agent):
    host = network.hosts[0]
    write(agent.machine("web"), "raw", 0, noise(1 << 20))
    with host.within():
        agent.start()
    with chromium() as browser:
        page = browser.new_context(base_url=here.url, ignore_https_errors=True).new_page()
        page.goto("/login")
        page.get_by_label("Name").fill("anna")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()

        page.goto("/machines")
        page.get_by_role("link", name="web", exact=True).click(timeout=SLOW)
        page.get_by_role("link", name="Enable protection").first.click()
        page.get_by_role("dialog").get_by_role("button", name="Enable protection").click()
        # The job's own page, live.
        expect(page.get_by_role("heading", level=1)).to_contain_text("Enable protection: web")
        expect(page.get_by_role("heading", level=1)).to_contain_text("succeeded", timeout=SLOW)
        expect(page.get_by_text("Starting initial replication")).to_be_visible()

        page.get_by_role("link", name="web", exact=True).first.click()
        expect(page.get_by_role("cell", name="crash-consistent").first).to_be_visible(timeout=SLOW)
        expect(page.get_by_role("heading", level=1)).to_contain_text("Normal", timeout=SLOW)

        host.is_unplugged()
        page.goto("/")
        expect(page.get_by_text("has not reported since")).to_be_visible(timeout=SLOW)
        page.goto("/machines")
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="web", exact=True))
        expect(row).to_contain_text("unknown")
        # It was true that replication needs no vault.
        before = points(agent)
        wait_for(lambda: points(agent) > before + 2, "points while the vault is away")

        host.comes_back()
        expect(row).to_contain_text("Normal", timeout=SLOW)
        page.goto("/")
        expect(page.get_by_text("has not reported since")).to_have_count(0, timeout=SLOW)
