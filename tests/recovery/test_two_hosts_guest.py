"""The whole life of a guest on two hosts with networks of their own, by commands and agents, through a store server:
its host dies, it fails over, writes, its old host comes back and keeps still, and it goes home. It writes stamps
to both of its disks as fast as it can all the while; each is accounted for.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from standby.demo import guest, stamps
from standby.objects.address import open_store
from standby.recovery import live_view
from standby.replica.journal import ReplicaLog
from tests.cli.conftest import PROGRAM, standby
from tests.guest.conftest import BOOT_LIMIT, images, small_guest, start  # noqa: F401 - fixtures
from tests.hypervisor.processes import wait_for
from tests.recovery.conftest import HOST
from tests.support.clouds import start_moto
from tests.support.hosts import STORE, Host, Network, NoNamespaces

pytestmark = pytest.mark.guest


class Side:
    """A host with a state directory; `agent` is at work once it is begun."""

    def __init__(self, host: Host, folder: Path) -> None:
        self.host = host
        self.state = folder
        self.agent: subprocess.Popen | None = None

    def __call__(self, *words, status: int = 0):
        with self.host.within():
            done = standby(*words, "--json")
        assert done.status == status, (words, done.err, self.log())
        return done.json if done.out else None

    def begin(self) -> None:
        with self.host.within(), (self.state / "log").open("ab") as log:
            self.agent = subprocess.Popen(
                [PROGRAM, "agent", "run", "--state", self.state], stderr=log, stdout=log
            )
        wait_for(lambda: (self.state / "control").exists(), "the agent")

    def shown(self):
        return self("vm", "show", "web", "--state", self.state)["state"]

    def protected(self) -> bool:
        return self.shown() in ("protected", "delta")

    def log(self) -> str:
        path = self.state / "log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def network():
    try:
        network = Network()
    except NoNamespaces as error:
        pytest.skip(f"no network namespaces here: {error}")
    yield network
    network.close()


@pytest.fixture
def place(network, tmp_path):
    cloud = start_moto(tmp_path, STORE)
    place = cloud.place()
    with mock.patch.dict(os.environ, place.environment):
        yield place
    cloud.stop()


@pytest.fixture
def sides(network, place):
    folders = [Path(tempfile.mkdtemp(prefix="sb-")) for _ in network.hosts]
    sides = [Side(host, folder) for host, folder in zip(network.hosts, folders, strict=True)]
    yield sides
    for side in sides:
        side.host.dies()
        if side.agent:
            side.agent.wait(30)
        shutil.rmtree(side.state)


def test_a_guest_lives_on_two_hosts_and_every_stamp_is_accounted_for(
    small_guest,  # noqa: F811
    images,  # noqa: F811
    start,  # noqa: F811
    sides,
    place,
):
    here, there = sides
    with here.host.within():
        source = start(small_guest.describe("web", stamps_per_second=0), images, small_guest.boot_files)
        source.wait_booted(BOOT_LIMIT)
    here.begin()
    sockets = ["--qmp", source.qmp, "--agent", source.agent]
    keep = ["--store", place.address, "--frequency", 1, "--reserve", 0, "--state", here.state]
    here("vm", "protect", "web", *sockets, *keep)
    wait_for(here.protected, "protection", 60)
    wait_for(lambda: guest.newest_stamp(source) > 50 and prefix(place) > 50, "stamps in the store", 60)

    here.host.dies()
    here.agent.wait(30)
    protected = prefix(place)
    asked = ["failover", "unplanned", place.address, "web", "--state", there.state]
    there(*asked, status=3)  # nobody has said that the source is down
    run = Path(there(*asked, "--yes-the-source-is-down")["run"])
    machine = live_view.machine(run, HOST)
    wait_for(lambda: guest.newest_stamp(machine) > protected + 50, "stamps behind those of the point")

    # The old host is back: it finds itself fenced, says to whom, and starts nothing.
    records = len(log_of(place).records)
    here.host.comes_back()
    (here.state / "control").unlink()
    here.begin()
    wait_for(lambda: here.shown() == "fenced", "the fence being found", 60)
    assert "standby failover" in here.log()
    assert len(here.host.processes()) == 1, here.host.processes()
    assert len(log_of(place).records) == records

    # Reverse, by the agent there.
    there("failover", "commit", run)
    there("failover", "hydrate", run)
    there.begin()
    there("failover", "reverse", run, "--frequency", 1, "--state", there.state)
    wait_for(there.protected, "protection from the other host", 60)

    # And home again: the replica and the old disks meet while the guest runs on.
    disks = [f"--disk={name}={image.format}:{image.path}" for name, image in images.items()]
    back = here("failover", "failback", place.address, "web", *disks, "--state", here.state)
    assert back["phase"] == "waits to be completed"
    newest = guest.newest_stamp(machine)
    sealed = there("failover", "planned", "web", "--state", there.state)
    assert sealed["point"] == log_of(place).point().seq
    assert prefix(place) >= newest > protected
    home = here("failover", "complete", back["run"])
    assert home["state"] == "running"
    machine = live_view.machine(Path(back["run"]), HOST)
    wait_for(lambda: guest.newest_stamp(machine) > prefix(place), "stamps at home")
    here("failover", "commit", back["run"])
    # The fenced agent at home goes on with the same replica, as it is told that the machine is here again.
    here("vm", "protect", "web", "--qmp", machine.qmp, "--agent", machine.agent, *keep, "--take-over")
    wait_for(here.protected, "protection at home", 60)
    assert guest.check_files(machine) == sum(disk.files for disk in small_guest.disks)
    guest.stop_stamps(machine)
    last = guest.stamp_prefix(machine)
    assert last >= guest.newest_stamp(machine)
    wait_for(lambda: prefix(place) == last, "the last stamp in the store", 60)
    there("failover", "cleanup", run)
    here.agent.send_signal(signal.SIGTERM)


def log_of(place) -> ReplicaLog:
    return ReplicaLog.read(open_store(place.address), "web")


def prefix(place) -> int:
    """The stamps of the newest point: exactly so many, on both disks."""
    log = log_of(place)
    record = log.point()
    return stamps.prefix_of_disks([log.image(record.seq, disk.id) for disk in record.disks])
