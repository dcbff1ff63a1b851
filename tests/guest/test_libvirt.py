"""The guest agent of a real guest, reached through libvirt: frozen for an instant, and never left frozen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from standby.demo import guest
from standby.demo.content import DiskPlan
from standby.errors import StandbyError
from standby.hypervisor.base import Consistency
from standby.hypervisor.libvirt_guest import LibvirtAgent
from standby.hypervisor.libvirt_host import LibvirtHypervisor
from tests.guest.conftest import BOOT_LIMIT, CONTENT
from tests.hypervisor import cycle
from tests.hypervisor.processes import SMALL, wait_for
from tests.support.libvirtd import Libvirtd

pytestmark = pytest.mark.guest

CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
FREEZE = """
import sys, time
from pathlib import Path
from standby.hypervisor.libvirt_guest import LibvirtFreeze
LibvirtFreeze(sys.argv[1], sys.argv[2], Path(sys.argv[3]), limit=60).begin()
print("frozen", flush=True)
time.sleep(60)
"""


@pytest.fixture
def libvirtd():
    daemon = Libvirtd()
    yield daemon
    daemon.close()


def test_a_guest_is_frozen_at_the_instant_and_thawed_even_if_its_freezer_is_killed(
    libvirtd, pytestconfig, tmp_path
):
    made = guest.build(Path(pytestconfig.cache.mkdir("guest")), [DiskPlan("qcow2", CONTENT)])
    disk = libvirtd.images / "disk"
    for source, target in (
        (made.disks[0].path, disk),
        *((p, libvirtd.images / r) for r, p in made.boot_files.items()),
    ):
        shutil.copy(source, target)
        libvirtd.own(target)
    described = made.describe("web", stamps_per_second=100)
    boot = "".join(f"<{role}>{libvirtd.images / role}</{role}>" for role in made.boot_files)
    boot += f"<cmdline>{described.kernel_cmdline}</cmdline>"
    machine = libvirtd.machine(
        "web", {"vda": (disk, "qcow2")}, CHANNEL, boot=boot, memory=described.memory >> 20
    )
    machine.domain.resume()
    agent = wait_for(lambda: answering(libvirtd.uri), "the guest agent", BOOT_LIMIT)

    hypervisor = LibvirtHypervisor(libvirtd.uri, limits=SMALL)
    found = hypervisor.describe("web")
    assert (found.firmware, found.boot_files, found.kernel_cmdline) == (
        "kernel",
        described.boot_files,
        described.kernel_cmdline,
    )
    assert "guest agent" not in str(hypervisor.check("web", tmp_path))
    tracking = hypervisor.tracking("web", "rel", tmp_path)
    copies = cycle.create(tmp_path, {"vda": found.disks[0].size})
    cycle.recover(tracking, copies)
    cycle.take(tracking, copies)
    reached = []
    cycle.take(
        tracking,
        copies,
        consistency=Consistency.APPLICATION,
        look=lambda cut: reached.append((cut.consistency, cut.note, agent.fsfreeze_status())),
    )
    tracking.close()
    assert reached == [(Consistency.APPLICATION, "", "thawed")]
    # What was frozen needs no journal replayed: e2fsck finds it clean and says so without writing.
    copy = tmp_path / "vda.copy"
    assert subprocess.run(["e2fsck", "-fn", copy], check=False, capture_output=True).returncode == 0

    mark = tmp_path / "mark"
    freezer = subprocess.Popen(
        [sys.executable, "-c", FREEZE, "web", libvirtd.uri, mark], stdout=subprocess.PIPE, text=True
    )
    assert freezer.stdout.readline() == "frozen\n"
    assert agent.fsfreeze_status() == "frozen"
    os.kill(freezer.pid, signal.SIGKILL)
    freezer.communicate()
    wait_for(lambda: agent.fsfreeze_status() == "thawed", "the thaw")
    wait_for(lambda: not mark.exists(), "the mark to go")


def answering(uri):
    try:
        return LibvirtAgent("web", uri, 2.0)
    except StandbyError:
        return None
