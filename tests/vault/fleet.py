"""Vault processes and simulated agents that speak to them over HTTP: for load, and for vaults that die.

An agent carries out each order that it did not know, once, over a heartbeat or two, and tells its end until the vault
has taken it in.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import httpx
import msgspec

from standby.link.messages import Answer, Heartbeat, PointMade, Registered, WorkReport, WorkState
from tests.vault.served import beat, point, seen, standing

PROGRAM = Path(sys.executable).parent / "standby"


class Process:
    """`standby vault run` on a database."""

    def __init__(self, database: str, folder: Path) -> None:
        self._command = [PROGRAM, "vault", "run", "--plain", "--database", database, "--folder", str(folder)]
        self._listen = "127.0.0.1:0"
        self.password = ""
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [*self._command, "--listen", self._listen],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "300"},
        )
        assert self._process.stderr
        for line in self._process.stderr:
            if found := re.search(r"password: (\S+)", line):
                self.password = found[1]
            if found := re.search(r"The vault is at (\S+)", line):
                self.url = found[1]
                # Again at the same place when it is started again, as behind a load balancer.
                self._listen = self.url.partition("://")[2]
                return
        raise RuntimeError("the vault did not start")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(15)


class Balanced:
    """Calls of any process that answers, as a load balancer would pass them on. times: seconds by kind of call.

    drop: the part of answers that is lost on the way here, after the vault did what was asked. A process that is killed
    seldom dies just there, so this does not wait for it. dropped: how many were.
    """

    def __init__(self, urls: list[str], *, limit: float = 30.0, drop: float = 0.0) -> None:
        self.drop = drop
        self.dropped = 0
        self._clients = [httpx.AsyncClient(base_url=url, timeout=limit, trust_env=False) for url in urls]
        self.times: dict[str, list[float]] = {}
        self.statuses: Counter[int] = Counter()
        self.lost = 0

    async def call(self, kind: str, method: str, path: str, **more: object) -> httpx.Response:
        """The answer of the first that gives one."""
        while True:
            began = time.monotonic()
            try:
                answer = await random.choice(self._clients).request(method, path, **more)
            except httpx.TransportError:
                self.lost += 1
                await asyncio.sleep(0.05)
                continue
            if random.random() < self.drop:
                self.dropped += 1
                continue
            self.statuses[answer.status_code] += 1
            if answer.status_code == 503:
                await asyncio.sleep(0.05)
                continue
            self.times.setdefault(kind, []).append(time.monotonic() - began)
            return answer

    async def close(self) -> None:
        for one in self._clients:
            await one.aclose()


class Agent:
    """started: how often it carried out each job."""

    def __init__(self, balanced: Balanced, name: str, registered: Registered, machines: list[str]) -> None:
        self._balanced = balanced
        self._token = registered.token
        self._name = name
        self._machines = machines
        self._seq = Counter[str]()
        self._reports: dict[str, WorkReport] = {}
        self._points: list[PointMade] = []
        self.started: Counter[str] = Counter()

    async def run(self, until: Callable[[], bool], every: float | None = None) -> None:
        """every: seconds between heartbeats, else as the vault says."""
        # As agents that were not started all at once.
        await asyncio.sleep(random.random() * (every or 5.0))
        while not until():
            answer = await self.beat()
            await asyncio.sleep(every or answer.next)

    async def beat(self) -> Answer:
        for name in self._machines:
            # One each 30 seconds, at the usual frequency and heartbeat.
            if random.random() < 1 / 6:
                self._seq[name] += 1
                self._points.append(point(name, self._seq[name]))
        said: Heartbeat = beat(
            instance=self._name,
            machines=tuple(seen(name) for name in self._machines),
            relationships=tuple(
                standing(name, rpo=random.random() * 30, queued_bytes=random.randrange(1 << 20))
                for name in self._machines
            ),
            points=tuple(self._points),
            work=tuple(self._reports.values()),
        )
        answer = await self._balanced.call(
            "heartbeat",
            "POST",
            "/agent/v1/heartbeat",
            content=msgspec.json.encode(said),
            headers={"Authorization": f"Bearer {self._token}"},
        )
        answer.raise_for_status()
        self._points.clear()
        told = msgspec.json.decode(answer.content, type=Answer)
        self._token = told.token or self._token
        for job in told.taken:
            self._reports.pop(job, None)
        for job, report in self._reports.items():
            # Some take one heartbeat more: what is under way is told as well.
            if report.state is WorkState.IN_PROGRESS and random.random() < 0.5:
                self._reports[job] = msgspec.structs.replace(report, state=WorkState.SUCCEEDED)
        for order in told.orders:
            known = self._reports.get(order.job)
            if known is None or known.lease != order.lease:
                self.started[order.job] += 1
                self._reports[order.job] = WorkReport(
                    job=order.job, lease=order.lease, state=WorkState.IN_PROGRESS
                )
        return told


class Fleet:
    """A vault's agents, and an administrator who begins jobs. begun: ids of those that were taken in."""

    def __init__(self, balanced: Balanced, password: str) -> None:
        self._balanced = balanced
        self._password = password
        self.agents: list[Agent] = []
        self.machines: list[str] = []
        self.begun: set[str] = set()
        self.refused = 0

    async def set_up(self, agents: int, machines: int) -> None:
        body = {"name": "admin", "password": self._password}
        self._headers = {"Authorization": f"Bearer {(await self._post('/login', body))['token']}"}
        await self._post("/sites", {"name": "Berlin"})
        for number in range(agents):
            key = (await self._post("/registration-keys", {"site": "Berlin"}))["key"]
            asked = {"key": key, "name": f"host-{number:03}", "version": "1"}
            answer = await self._balanced.call("register", "POST", "/agent/v1/register", json=asked)
            answer.raise_for_status()
            names = [f"vm-{number:03}-{one:02}" for one in range(machines // agents)]
            registered = msgspec.json.decode(answer.content, type=Registered)
            self.agents.append(Agent(self._balanced, f"host-{number:03}", registered, names))
            self.machines += names
        for group in _groups(self.agents, 4):
            await asyncio.gather(*(one.beat() for one in group))
        self._balanced.times.clear()

    async def begin(self) -> None:
        """A job on any machine; sent again until it is answered, with one key."""
        machine = random.choice(self.machines)
        answer = await self._balanced.call(
            "begin",
            "POST",
            f"/api/v1/machines/{machine}/jobs",
            json={"kind": "retry"},
            headers={**self._headers, "Idempotency-Key": str(uuid.uuid4())},
        )
        if answer.status_code == 409:
            self.refused += 1
        else:
            answer.raise_for_status()
            self.begun.add(answer.json()["id"])

    async def get(self, kind: str, path: str) -> httpx.Response:
        answer = await self._balanced.call(kind, "GET", f"/api/v1{path}", headers=self._headers)
        answer.raise_for_status()
        return answer

    async def states(self) -> dict[str, str]:
        """Of all jobs of the kind that is begun here; the vault begins others by itself."""
        found, before = {}, ""
        while True:
            page = (await self.get("jobs", f"/jobs?kind=retry&limit=500&before={before}")).json()
            found |= {one["id"]: one["state"] for one in page["jobs"]}
            if page["next"] is None:
                return found
            before = page["next"]

    def started(self) -> Counter[str]:
        return sum((one.started for one in self.agents), Counter())

    async def _post(self, path: str, body: object) -> dict[str, str]:
        answer = await self._balanced.call(
            "set-up", "POST", f"/api/v1{path}", json=body, headers=getattr(self, "_headers", {})
        )
        answer.raise_for_status()
        return answer.json()


def _groups(agents: list[Agent], size: int) -> Iterable[list[Agent]]:
    return (agents[at : at + size] for at in range(0, len(agents), size))


def quantile(times: list[float], part: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
