"""`standby vm` with a machine of a real libvirt."""

from __future__ import annotations

import json
import signal
import subprocess

import pytest

from standby.objects.directory import DirectoryStore
from standby.replica.journal import ReplicaLog
from tests.cli.conftest import PROGRAM, standby
from tests.hypervisor.processes import contents
from tests.support.libvirtd import SIZE, Libvirtd, contents_of

pytestmark = pytest.mark.slow


@pytest.fixture
def libvirtd():
    daemon = Libvirtd()
    yield daemon
    daemon.close()


def test_a_libvirt_machine_is_protected_by_its_name_and_a_point_is_its_disks(libvirtd, store, tmp_path):
    state = tmp_path / "state"
    disks = {
        target: (libvirtd.image(target, kind), kind) for target, kind in (("vda", "qcow2"), ("vdb", "raw"))
    }
    machine = libvirtd.machine("web", disks)
    checked = standby("vm", "check", "web", "--libvirt", libvirtd.uri, "--state", state, "--json")
    assert (checked.status, checked.json["ready"]) == (0, True)
    both = standby("vm", "check", "web", "--libvirt", libvirtd.uri, "--qmp", "/there", "--state", state)
    assert both.status != 0
    assert "either through libvirt" in both.err
    machine.write("vda", 0, 1 << 20, 7)
    machine.write("vdb", 4096, 8192, 9)
    arguments = ["vm", "protect", "web", "--store", store, "--frequency", "1", "--state", state, "--json"]
    for connection in (["--libvirt", libvirtd.uri], []):  # once told, it is known
        process = subprocess.Popen([PROGRAM, *arguments, *connection], stdout=subprocess.PIPE, text=True)
        points = 0
        while points < 2:
            line = process.stdout.readline()
            assert line, "it ended"
            points += json.loads(line)["event"] == "point"
            if points == 1:
                machine.write("vda", 2 << 20, 4096, 11)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode in (0, 130)
    log = ReplicaLog.read(DirectoryStore(store), "web")
    point = log.points[-1]
    for target, (path, kind) in disks.items():
        assert contents(log.image(point.seq, target)) == contents_of(path, kind)[:SIZE]
    assert machine.leftovers() == []
    machine.write("vdb", 3 << 20, 4096, 13)
    planned = standby("failover", "planned", "web", "--force", "--state", state)
    assert planned.status == 0, planned.err
    assert not machine.domain.isActive()
    log = ReplicaLog.read(DirectoryStore(store), "web")
    for target, (path, kind) in disks.items():
        assert contents(log.image(log.points[-1].seq, target)) == contents_of(path, kind)[:SIZE]
    assert standby("vm", "unprotect", "web", "--machine-gone", "--state", state).status == 0
