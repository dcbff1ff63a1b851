"""Twenty planned failovers in a row between two hosts, each with its agent, of an encrypted replica: zero writes lost.

The machine has no guest that could shut down, so it is stopped; its writes go through its own device in QEMU, the
last right before. A planned failover of a guest that shuts down: test_planned_guest.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from standby.block.images import Format
from standby.hypervisor.host import DiskImage, MachineState
from standby.objects.directory import DirectoryStore
from standby.records import DiskDescription, MachineDescription
from standby.recovery import hydrate, live_view
from standby.recovery.image_writer import opened
from standby.replica.format import BLOCK, PAGE
from standby.replica.journal import ReplicaLog
from standby.replica.keys import KeyFile
from standby.replica.plan import last_state
from tests.cli.conftest import PROGRAM, standby
from tests.hypervisor.processes import contents, wait_for
from tests.recovery.conftest import HOST

pytestmark = pytest.mark.slow

ROUNDS = 20
SIZE = 8 * BLOCK
DISKS = ("disk0", "disk1")


class Side:
    """A host: a state directory, and its agent at work. known: the machine is in its books."""

    def __init__(self, key: Path) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="sb-"))
        self._key = key
        self.known = False
        self._log = (self.state / "log").open("wb")
        self._begin()

    def _begin(self) -> None:
        words = [PROGRAM, "agent", "run", "--state", self.state]
        self._agent = subprocess.Popen(words, stderr=self._log)
        wait_for(lambda: (self.state / "control").exists(), "the agent")

    def restart(self, how: signal.Signals) -> None:
        self._agent.send_signal(how)
        self._agent.wait(30)
        (self.state / "control").unlink(missing_ok=True)
        self._begin()

    def __call__(self, *words, status: int = 0):
        done = standby(*words, "--json")
        assert done.status == status, (words, done.err, self.said)
        return done.json if done.out else None

    def failed_over(self, store: Path) -> Path:
        """Started here from the newest point, kept, fetched and protected; its run directory."""
        run = Path(self("failover", "unplanned", store, "web", "--no-agent", *self.keyed)["run"])
        self("failover", "commit", run)
        self("failover", "hydrate", run)
        qmp = live_view.machine(run, HOST).qmp
        if self.known:
            self("failover", "reverse", run, "--frequency", 1, *self.keyed)
            # Nobody answers at the guest agent's socket: no time is to be lost with asking.
            self("vm", "connect", "web", "--qmp", qmp, "--state", self.state)
        else:
            words = ["--store", store, "--frequency", 1, "--take-over"]
            self("vm", "protect", "web", "--qmp", qmp, *words, *self.keyed)
            self.known = True
        return run

    @property
    def keyed(self):
        return "--key-file", self._key, "--state", self.state

    @property
    def said(self) -> str:
        return (self.state / "log").read_text()

    def protected(self) -> bool:
        return self("vm", "show", "web", "--state", self.state)["state"] in ("protected", "delta")

    def close(self) -> None:
        self._agent.send_signal(signal.SIGTERM)
        self._agent.wait(30)
        self._log.close()
        for one in live_view.list_failovers(self.state / "failovers", HOST):
            live_view.machine(one.run, HOST).kill()
        shutil.rmtree(self.state)


@pytest.fixture
def key(tmp_path) -> Path:
    KeyFile.new(tmp_path / "key")
    return tmp_path / "key"


@pytest.fixture
def sides(key):
    both = Side(key), Side(key)
    yield both
    for side in both:
        side.close()


@pytest.fixture
def first(tmp_path):
    """The machine where it begins. Its firmware finds nothing to boot, and waits."""
    disks = {}
    for name in DISKS:
        path = tmp_path / f"{name}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE)], check=True)
        disks[name] = DiskImage(path, "qcow2")
    machine = HOST.start(
        MachineDescription(
            name="web",
            uuid="6ad3a7b4-6f27-4a25-8b5f-9f0d6f1d3c11",
            memory=64 << 20,
            cpus=1,
            firmware="bios",
            disks=tuple(DiskDescription(id=name, size=SIZE, format="qcow2") for name in DISKS),
        ),
        disks,
        {},
        tmp_path / "m",
    )
    yield machine
    machine.kill()


class Pen:
    """Writes as the guest would, and knows what must be on the disks."""

    def __init__(self) -> None:
        self._rng = random.Random(20261124)
        self.truth = {name: bytearray(SIZE) for name in DISKS}

    def write(self, machine, count: int) -> None:
        with machine._control() as qmp:
            for _ in range(count):
                name = self._rng.choice(DISKS)
                offset = PAGE * self._rng.randrange(SIZE // PAGE)
                byte = self._rng.randrange(1, 256)
                self.truth[name][offset : offset + PAGE] = bytes([byte]) * PAGE
                device = f"/machine/peripheral/{name}/virtio-backend"
                line = f'qemu-io -d {device} "write -P {byte} {offset} {PAGE}"'
                said = qmp.command("human-monitor-command", command_line=line)
                # What it says of a write goes to QEMU's own output; here is only what went wrong.
                assert not said.strip(), said


def check(pen: Pen, store: Path, key: Path) -> None:
    """The newest record is a seal, and each disk of it is what was written, to the byte."""
    log = log_of(store, key)
    sealed = log.point()
    assert last_state(log.records) == sealed
    assert sealed.kind == "seal"
    for name in DISKS:
        assert contents(log.image(sealed.seq, name)) == pen.truth[name], name


def test_twenty_rounds_between_two_hosts_lose_no_write(sides, first, key, tmp_path, monkeypatch):
    monkeypatch.setattr(hydrate, "POLL", 0.05)  # these disks are small
    store = tmp_path / "store"
    DirectoryStore(store, create=True)
    pen, machine, before = Pen(), first, None
    pen.write(machine, 20)
    here, there = sides
    here("vm", "protect", "web", "--qmp", machine.qmp, "--store", store, "--frequency", 1, *here.keyed)
    here.known = True
    for number in range(ROUNDS):
        wait_for(here.protected, f"protection in round {number}")
        pen.write(machine, 30)
        moved = here("failover", "planned", "web", "--force", "--shutdown-limit", 0.1, "--state", here.state)
        assert moved["point"] > 0
        wait_for(lambda was=machine: was.state() is MachineState.GONE, "the end of its process")
        check(pen, store, key)
        after = there.failed_over(store)
        machine = live_view.machine(after, HOST)
        if before:
            # It sees by itself that its machine has moved on.
            here("failover", "cleanup", before)
        before, here, there = after, there, here
    with opened(tmp_path / "disk0.qcow2", Format.QCOW2, None, writable=False) as disk:
        assert contents(disk) != pen.truth["disk0"], "what was written since is on the other side"


def test_an_agent_that_seals_does_nothing_else_with_the_machine_and_is_killed(sides, first, key, tmp_path):
    store = tmp_path / "store"
    DirectoryStore(store, create=True)
    here, _ = sides
    here("vm", "protect", "web", "--qmp", first.qmp, "--store", store, "--frequency", 1, *here.keyed)
    wait_for(here.protected, "protection")
    planned = ["failover", "planned", "web", "--state", here.state]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(standby, *planned, "--shutdown-limit", 3, "--json")
        wait_for(lambda: refused_as_lent(here), "its engine to be lent")
        for words in (["vm", "unprotect", "web"], ["vm", "connect", "web", "--qmp", first.qmp]):
            assert standby(*words, "--state", here.state).status == 3, words
        # There is no guest that could: it runs on, and is protected as before.
        done = asked.result(60)
    assert (done.status, "did not shut down within 3 s" in done.err) == (4, True), done.err
    assert first.state() is MachineState.RUNNING
    Pen().write(first, 5)
    points = len(log_of(store, key).points)
    wait_for(lambda: len(log_of(store, key).points) > points, "points after it was spared")

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(standby, *planned, "--shutdown-limit", 60, "--json")
        wait_for(lambda: refused_as_lent(here), "its engine to be lent")
        here.restart(signal.SIGKILL)
        ended = asked.result(60)
    assert ended.status in (3, 4), ended.err
    here(*planned, "--force", "--shutdown-limit", 0.1)
    wait_for(lambda: first.state() is MachineState.GONE, "the end of its process")
    assert here("vm", "show", "web", "--state", here.state)["state"] == "sealed"
    again = here(*planned)
    assert again["point"] == log_of(store, key).point().seq, "once more is harmless"
    other = tmp_path / "other"
    DirectoryStore(other, create=True)
    words = ["vm", "protect", "web", "--qmp", first.qmp, "--store", other, "--take-over", *here.keyed]
    taken = standby(*words)
    assert (taken.status, "with the store" in taken.err) == (3, True)


def refused_as_lent(side: Side) -> bool:
    return "shut down for good" in " ".join(standby("vm", "retry", "web", "--state", side.state).err.split())


def log_of(store: Path, key: Path) -> ReplicaLog:
    return ReplicaLog.read(DirectoryStore(store), "web", key=KeyFile(key))
