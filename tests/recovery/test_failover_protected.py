"""A guest that the engine protected, booted from the store: it keeps what it writes when a server dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from standby.demo import guest
from standby.objects.directory import DirectoryStore
from standby.recovery import failover, serving
from standby.recovery.failover import Phase, Request
from standby.replica.journal import ReplicaLog
from tests.guest.conftest import BOOT_LIMIT, small_guest  # noqa: F401 - a fixture
from tests.hypervisor.processes import Daemon, wait_for
from tests.recovery.conftest import HOST
from tests.recovery.machines import processes
from tests.replication.rig import Rig

pytestmark = pytest.mark.guest


class Described:
    """A hypervisor whose disks a storage daemon serves, described as the guest that boots from them."""

    def __init__(self, inner, description, boot_files) -> None:
        self._inner, self._description, self._files = inner, description, boot_files

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def describe(self, machine):
        return self._description

    def boot_files(self, machine):
        return self._files


@pytest.fixture
def store(small_guest, tmp_path) -> Path:  # noqa: F811
    """The path of a store with one point of the small guest, as replica `vm`."""
    formats = {}
    for index, disk in enumerate(small_guest.disks):
        disk.copy(tmp_path / f"disk{index}.img")
        formats[f"disk{index}"] = (disk.format, "")
    daemon = Daemon(tmp_path, formats)
    description = small_guest.describe("web", stamps_per_second=0)
    rig = Rig(tmp_path, Described(daemon.hypervisor(), description, small_guest.boot_files))
    rig.protect()
    rig.close()
    daemon.stop()
    return tmp_path / "store"


def test_it_goes_on_writing_when_a_server_dies_and_is_mended(store, root):
    log = ReplicaLog.read(DirectoryStore(store), "vm")
    described = log.point().machine
    assert described.firmware == "kernel"
    assert {file.role for file in described.boot_files} == {"kernel", "initrd"}

    test = failover.start(Request(str(store), "vm", boot_limit=BOOT_LIMIT), root, HOST)
    assert (test.name, test.phase, test.held) == ("web - Test", Phase.RUNNING, True)
    copy = failover.machine(test.run, HOST)
    assert guest.check_files(copy) > 0
    wait_for(lambda: guest.newest_stamp(copy) > 20, "stamps")

    victim = failover.sources(test.run)[0]
    assert serving.process_of(victim).kill(str(victim.socket), 10)
    assert failover.mend(test.run) == ["disk0"]
    before = guest.newest_stamp(copy)
    wait_for(lambda: guest.newest_stamp(copy) > before, "stamps after the mending")
    guest.stop_stamps(copy)
    assert guest.stamp_prefix(copy) >= before
    assert guest.check_files(copy) > 0

    failover.clean_up(test.run, HOST)
    assert processes(root) == []
    assert [path.name for path in root.iterdir()] == [".lock"]
    assert ReplicaLog.read(DirectoryStore(store), "vm").head.holds == ()
