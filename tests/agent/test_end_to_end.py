"""A real vault, a real agent and a real storage daemon, over TLS: nothing between them is a stand-in."""

from __future__ import annotations

import json
import re
import signal
import ssl
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from standby.clock import SystemClock
from standby.objects.directory import DirectoryStore
from standby.vault import access
from standby.vault.core import Actor, Vault
from standby.vault.database import Database
from standby.vault.jobs import Role
from tests.agent.test_vault_agent import VaultAgent
from tests.cli.conftest import PROGRAM, standby
from tests.hypervisor.processes import wait_for as wait_for_it
from tests.replication.site import noise, write

pytestmark = pytest.mark.slow


def wait_for(condition, limit=40.0):
    return wait_for_it(condition, "what the test waits for", limit)


class RealVault:
    """`standby vault run` on SQLite, with the certificate of its own authority."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        self.log = folder / "vault.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.listen = "127.0.0.1:0"
        self.start()
        with closing(Database(f"sqlite:///{folder / 'vault.sqlite'}")) as database:
            vault = Vault(database, SystemClock())
            user = access.new_user(
                vault, access.console("tests"), "anna", Role.ADMINISTRATOR, "correct horse"
            )
            actor = Actor(user.name, Role.ADMINISTRATOR, "portal", user.id)
            self.token = access.new_token(vault, actor, "tests", Role.ADMINISTRATOR, 1)[1]
        self.api = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers={"Authorization": f"Bearer {self.token}"},
            verify=ssl.create_default_context(cafile=next(folder.glob("*authority*.pem"))),
            timeout=30,
        )

    def start(self):
        before = self.log.stat().st_size if self.log.exists() else 0
        words = [PROGRAM, "vault", "run", "--folder", self.folder, "--listen", self.listen]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([str(one) for one in words], stderr=log, stdout=log)
        found = wait_for(lambda: re.search(r"The vault is at (\S+)", self.log.read_text()[before:]))
        self.url = found.group(1)
        self.listen = self.url.removeprefix("https://")

    def stop(self, how=signal.SIGTERM):
        assert self.process
        self.process.send_signal(how)
        self.process.wait(30)

    def ask(self, method, path, **more):
        response = self.api.request(method, path, **more)
        assert response.status_code < 300, response.text
        return response.json() if response.content else None

    def job(self, machine, kind, params=None, confirm=""):
        body = {"kind": kind, "params": params or {}, "confirm": confirm}
        return self.ask("POST", f"/machines/{machine}/jobs", json=body)["id"]

    def ended(self, job):
        shown = self.ask("GET", f"/jobs/{job}")
        return shown if shown["state"] in ("succeeded", "failed", "cancelled") else None

    def key_file(self, folder: Path):
        key = self.ask("POST", "/registration-keys", json={"site": "here"})
        path = folder / "vault.key"
        path.write_text(json.dumps(key))
        return path

    def close(self):
        self.api.close()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def shown(agent):
    return standby("agent", "show", "--state", agent.state, "--json").json


def test_from_registration_to_points_and_back_after_kills_of_either(tmp_path):
    folder = Path(tempfile.mkdtemp(prefix="se-"))
    vault = RealVault(tmp_path / "vault")
    agent = None
    try:
        vault.ask("POST", "/sites", json={"name": "here"})
        DirectoryStore(folder / "store", create=True)
        vault.ask("POST", "/stores", json={"name": "near", "address": str(folder / "store")})
        policy = vault.ask(
            "POST", "/policies", json={"name": "each second", "body": {"frequency": 1, "reserve": 0}}
        )
        agent = VaultAgent(folder, vault)
        write(agent.machine("web"), "raw", 0, noise(1 << 20))
        agent.start()
        # Other machines of this host are seen too, and may have that name.
        wait_for(lambda: "web" in [one["name"] for one in vault.ask("GET", "/machines")["machines"]])
        job = vault.job("web", "enable-protection", {"store": "near", "policy": policy["id"]})
        done = wait_for(lambda: vault.ended(job))
        assert done["state"] == "succeeded", done
        assert [task["state"] for task in done["tasks"]] == ["succeeded"] * 4
        points = wait_for(lambda: vault.ask("GET", "/machines/web/points")["points"])

        agent.stop(signal.SIGKILL)
        agent.start()
        wait_for(lambda: len(vault.ask("GET", "/machines/web/points")["points"]) > len(points) + 2)
        vault.stop(signal.SIGKILL)
        count = len(list((folder / "store").rglob("points/*")))
        wait_for(lambda: len(list((folder / "store").rglob("points/*"))) > count + 2)
        wait_for(lambda: "cannot be reached" in shown(agent)["problem"])
        vault.start()
        newest = max(int(path.name) for path in (folder / "store").rglob("points/*"))
        wait_for(lambda: vault.ask("GET", "/machines/web/points")["points"][0]["seq"] >= newest)
        paused = vault.job("web", "pause")
        assert wait_for(lambda: vault.ended(paused))["state"] == "succeeded"
        wait_for(lambda: vault.ask("GET", "/machines/web")["state"] == "paused")
        retained = vault.job("web", "scrub", {"fraction": 1.0})
        scrubbed = wait_for(lambda: vault.ended(retained))
        assert scrubbed["state"] == "succeeded", scrubbed
        gone = vault.job("web", "disable-protection", confirm="web")
        assert wait_for(lambda: vault.ended(gone))["state"] == "succeeded"
        assert agent.daemons["web"].bitmaps() == []
        assert vault.token not in vault.log.read_text()
        assert (agent.state / "vault.json").stat().st_mode & 0o077 == 0
    finally:
        if agent:
            agent.close()
        vault.close()
