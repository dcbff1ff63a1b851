"""A real guest boots straight from a cloud service, and is removed without a trace."""

from __future__ import annotations

import os
from unittest import mock

import pytest

from standby.demo import guest
from standby.objects.address import open_store
from standby.recovery import failover
from standby.recovery.failover import Phase, Request
from standby.replica.journal import ReplicaLog
from tests.guest.conftest import BOOT_LIMIT, small_guest  # noqa: F401 - a fixture
from tests.hypervisor.processes import Daemon, wait_for
from tests.recovery.test_failover import Described, host, root  # noqa: F401 - fixtures
from tests.replication.rig import Rig

pytestmark = pytest.mark.guest


def test_a_point_boots_from_a_cloud(small_guest, place, root, host, tmp_path):  # noqa: F811
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
        test = failover.start(Request(store.url, "vm", boot_limit=BOOT_LIMIT), root, host)
        assert (test.phase, test.held) == (Phase.RUNNING, True)
        copy = failover.machine(test.run, host)
        assert guest.check_files(copy) > 0
        wait_for(lambda: guest.newest_stamp(copy) > 20, "stamps")
        failover.clean_up(test.run, host)
        assert ReplicaLog.read(store, "vm").head.holds == ()
