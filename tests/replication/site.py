"""Real daemons, rigs and mounts of one test, and what such tests ask of them."""

from __future__ import annotations

import random
import subprocess
from contextlib import closing
from pathlib import Path

from standby.block.nbd import NbdDisk
from standby.replica.journal import ReplicaLog
from standby.replica.verify import verify_logs, verify_point
from standby.replication.states import State
from tests.hypervisor.processes import Daemon
from tests.replication.rig import Rig, SettableClock

DISKS = {"qcow": ("qcow2", ""), "raw": ("raw", "")}


def run(*command) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=60)


class Site:
    """Daemons, rigs and mounts of one test, all ended with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ends = []

    def ends(self, end):
        self._ends.append(end)

    def daemon(self, name="host", formats=DISKS, **more):
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        daemon = Daemon(folder, formats, **more)
        self.ends(daemon.stop)
        return daemon

    def rig(self, daemon, store=None, hypervisor=None, **more):
        more.setdefault("clock", SettableClock())
        rig = Rig(self.folder, hypervisor or daemon.hypervisor(), store, **more)
        rig.open = True
        self.ends(lambda: rig.open and rig.close())
        return rig

    def tmpfs(self, name, options):
        place = self.folder / name
        place.mkdir()
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", place)
        self.ends(lambda: run("umount", "-l", place))
        return place

    def close(self):
        for end in reversed(self._ends):
            end()


def stop(rig):
    rig.close()
    rig.open = False


def again(site, rig, daemon, **more):
    """The agent, stopped before, is started on the same books."""
    rig = site.rig(daemon, rig.store, clock=rig.clock, **more)
    rig.enable()
    return rig


def write(daemon, disk, offset, data):
    with closing(NbdDisk(daemon.nbd, disk, connections=1)) as client:
        client.write(offset, memoryview(data))


def now(daemon):
    """What the disks hold at this moment."""
    found = {}
    for name in daemon.formats:
        with closing(NbdDisk(daemon.nbd, name, connections=1)) as client:
            data = bytearray(client.size)
            client.read(0, memoryview(data))
            found[name] = data
    return found


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def due(rig):
    """One interval has passed."""
    rig.clock.advance(seconds=1)


def go_on(rig, condition):
    """Step, an interval each, until the condition holds."""

    def after_an_interval():
        due(rig)
        return condition()

    rig.until(after_an_interval)


def same_as(rig, daemon):
    """Whatever is under way is finished; a further point of the machine is the machine."""
    go_on(rig, lambda: rig.state is State.PROTECTED)
    rig.drain()
    go_on(rig, lambda: rig.source.ready and not rig.books.queue(rig.id))
    rig.point()
    assert rig.images() == now(daemon)
    log = ReplicaLog.read(rig.store, "vm")
    assert verify_logs(log).findings == ()
    assert verify_point(log, log.point()).findings == ()


def complete(message):
    """The message has object, cause, what was tried and what is next."""
    text = str(message)
    assert ": " in text
    assert "Tried: " in text, text
    assert "Next: " in text, text
    return text
