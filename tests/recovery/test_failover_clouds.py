"""A real guest boots straight from a cloud service, and is removed without a trace."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import pytest

from standby.demo import guest
from standby.hypervisor.launch import QemuHost
from standby.objects.address import open_store
from standby.recovery import failover
from standby.recovery.failover import Phase, Request
from standby.replica.journal import ReplicaLog
from tests.guest.conftest import BOOT_LIMIT, small_guest  # noqa: F401 - a fixture
from tests.hypervisor.processes import Daemon, wait_for
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
def run_directories():
    """A short path, for the sockets in them."""
    folder = Path(tempfile.mkdtemp(prefix="sb-", dir="/var/tmp"))
    yield folder
    shutil.rmtree(folder)


def test_a_point_boots_from_a_cloud(small_guest, place, run_directories, tmp_path):  # noqa: F811
    host = QemuHost(accelerator="tcg")
    formats = {}
    for index, disk in enumerate(small_guest.disks):
        disk.copy(tmp_path / f"disk{index}.img")
        formats[f"disk{index}"] = (disk.format, "")
    daemon = Daemon(tmp_path, formats)
    description = small_guest.describe("web", stamps_per_second=0)
    with mock.patch.dict(os.environ, place.environment):
        store = open_store(place.address)
        rig = Rig(tmp_path, Described(daemon.hypervisor(), description, small_guest.boot_files), store)
        rig.protect()
        rig.close()
        daemon.stop()
        test = failover.start(Request(store.url, "vm", boot_limit=BOOT_LIMIT), run_directories, host)
        assert (test.phase, test.held) == (Phase.RUNNING, True)
        copy = failover.machine(test.run, host)
        assert guest.check_files(copy) > 0
        wait_for(lambda: guest.newest_stamp(copy) > 20, "stamps")
        failover.clean_up(test.run, host)
        assert ReplicaLog.read(store, "vm").head.holds == ()
