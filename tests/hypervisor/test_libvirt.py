"""Machines of a real libvirt, tracked as they stand. Their processors never start: writes come by qemu-io."""

from __future__ import annotations

import os
import random
import signal

import pytest

from standby.errors import InvalidRequest
from standby.hypervisor.base import (
    Consistency,
    DiskInUse,
    Lost,
    MachineNotFound,
    MachineUnreachable,
    TrackingLost,
)
from standby.hypervisor.libvirt_connection import Event
from standby.hypervisor.libvirt_host import LibvirtHypervisor
from tests.hypervisor import cycle
from tests.hypervisor.processes import SMALL, wait_for
from tests.support.libvirtd import SIZE, Libvirtd, contents_of, disk_xml

pytestmark = pytest.mark.slow

FORMATS = {"vda": "qcow2", "vdb": "raw", "vdc": "vpc"}


@pytest.fixture(scope="module")
def libvirtd():
    daemon = Libvirtd()
    yield daemon
    daemon.close()


class Protected:
    """A machine and copies of its disks, replicated by a small agent."""

    def __init__(self, libvirtd, directory, formats=FORMATS):
        self.directory = directory
        self.kinds = dict(formats)
        name = f"vm-{random.randrange(1 << 32):x}"
        self.disks = {
            target: (libvirtd.image(f"{name}-{target}", kind), kind) for target, kind in formats.items()
        }
        self.machine = libvirtd.machine(name, self.disks)
        self.hypervisor = LibvirtHypervisor(libvirtd.uri, limits=SMALL)
        self.random = random.Random(7)
        directory.chmod(0o700)  # the machine's user cannot enter it
        self.copies = cycle.create(directory, dict.fromkeys(formats, SIZE))
        self.tracking = None

    def connect(self):
        """As an agent that was started, or lost its connection: what was lost, by disk."""
        if self.tracking:
            self.tracking.close()
        self.tracking = self.hypervisor.tracking(self.machine.name, "rel", self.directory)
        return cycle.recover(self.tracking, self.copies)

    def write(self, *targets, count=2):
        for target in targets or self.kinds:
            for _ in range(count):
                offset = self.random.randrange(SIZE >> 12) << 12
                self.machine.write(target, offset, 4096, self.random.randrange(1, 255))

    def take(self, **more):
        return cycle.take(self.tracking, self.copies, **more)

    def assert_same(self):
        self.assert_same_as(self.copies)

    def assert_same_as(self, copies):
        found = copies.contents()
        for target, (path, kind) in self.disks.items():
            assert found[target] == contents_of(path, kind)[:SIZE], f"the copy of {target} is another"

    def close(self):
        if self.tracking:
            self.tracking.close()
        if self.machine.domain.isActive():
            self.machine.domain.destroy()
        self.machine.domain.undefineFlags(
            self.machine.module.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | self.machine.module.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        )


@pytest.fixture
def protected(libvirtd, tmp_path):
    found = Protected(libvirtd, tmp_path)
    yield found
    found.close()


def test_points_are_the_disks_bit_for_bit_and_nothing_stays_but_bitmaps(protected):
    vm = protected
    vm.write()
    assert set(vm.connect().values()) == {Lost.NEVER_TRACKED}
    vm.take()
    vm.assert_same()
    for precopy in (0, 2):
        vm.write()
        under = vm.take(precopy=precopy)
        assert under <= 6 * 4096, "only what changed is read"
        vm.assert_same()
    assert vm.machine.leftovers() == []
    # The one NBD server of the process is free again: libvirt's own backup takes it.
    vm.machine.domain.backupBegin(BACKUP.format(images=vm.machine.daemon.images), None, 0)
    with pytest.raises(DiskInUse):
        vm.take()
    vm.machine.domain.abortJob()
    wait_for(lambda: vm.machine.qmp("query-jobs") == [], "the end of libvirt's job")
    vm.write()
    vm.take()
    vm.assert_same()
    vm.tracking.stop()
    assert vm.machine.bitmaps() == []


BACKUP = """<domainbackup mode='pull'><server transport='unix' socket='{images}/b.sock'/>
  <disks><disk name='vda' backup='yes' type='file'><scratch file='{images}/b.scratch'/></disk>
  <disk name='vdb' backup='no'/><disk name='vdc' backup='no'/></disks>
</domainbackup>"""


def test_foreign_bitmaps_and_checkpoints_are_left_alone(protected):
    vm = protected
    checkpoint = """<domaincheckpoint><name>theirs</name><disks><disk name='vda' checkpoint='bitmap'/>
      <disk name='vdb' checkpoint='no'/><disk name='vdc' checkpoint='no'/></disks></domaincheckpoint>"""
    vm.machine.domain.checkpointCreateXML(checkpoint)
    vm.connect()
    vm.take()
    vm.write()
    vm.take(precopy=1)
    assert [one.getName() for one in vm.machine.domain.listAllCheckpoints()] == ["theirs"]
    assert "theirs" in [name for _, name in vm.machine.bitmaps()]
    vm.machine.domain.checkpointLookupByName("theirs").delete()
    vm.write()
    vm.take()
    vm.assert_same()


def test_libvirtd_is_killed_and_comes_back_in_the_middle_of_a_cycle(libvirtd, protected):
    vm = protected
    vm.connect()
    vm.take()
    vm.write()
    with pytest.raises(MachineUnreachable):
        vm.take(look=lambda _: libvirtd.kill())
    vm.tracking.close()
    vm.tracking = None
    libvirtd.start()
    assert set(vm.connect().values()) == {None}, "no change was lost"
    assert vm.machine.leftovers() == []
    vm.write()
    vm.take()
    vm.assert_same()


def test_a_failed_cycle_is_rolled_back(protected):
    vm = protected
    vm.connect()
    vm.take()
    vm.write()
    vm.tracking.advance(vm.copies.state["next"])
    assert set(vm.connect().values()) == {None}
    assert vm.take() == 3 * 2 * 4096 or vm.take() == 0
    vm.assert_same()


def test_a_machine_that_was_off_keeps_the_tracking_of_qcow2_and_loses_that_of_others(protected):
    vm = protected
    vm.connect()
    vm.take()
    vm.write()
    vm.machine.domain.destroy()
    with pytest.raises(MachineUnreachable):
        vm.take()
    with pytest.raises(MachineUnreachable, match="it is off"):
        vm.connect()
    assert vm.hypervisor.describe(vm.machine.name).disks[0].id == "vda"
    (finding,) = vm.hypervisor.check(vm.machine.name, vm.directory)
    assert finding.blocks
    vm.machine.start()
    assert vm.connect() == {"vda": None, "vdb": Lost.TRACKING_LOST, "vdc": Lost.TRACKING_LOST}
    vm.write()
    vm.take()
    vm.assert_same()


def test_a_machine_stopped_and_started_between_two_cycles_is_noticed(protected):
    vm = protected
    vm.connect()
    vm.take()
    vm.write()
    vm.machine.domain.destroy()
    vm.machine.start()
    with pytest.raises(MachineUnreachable):
        vm.take()
    vm.connect()
    vm.take()
    vm.assert_same()


def test_an_inconsistent_bitmap_costs_its_disk_a_comparison_and_no_other(protected):
    vm = protected
    vm.connect()
    vm.take()
    vm.machine.domain.destroy()  # the bitmaps are on the disk now
    vm.machine.start()
    vm.write()
    pid = int((vm.machine.daemon.directory / f"r/libvirt/qemu/run/{vm.machine.name}.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not vm.machine.domain.isActive(), "libvirt to notice")
    vm.machine.start()
    assert vm.connect()["vda"] is Lost.INCONSISTENT
    vm.take()
    vm.assert_same()


def snapshot(vm, targets):
    """An external snapshot by somebody else, without libvirt's metadata as backup tools take it."""
    disks = ""
    for target in vm.kinds:
        path = vm.disks[target][0].with_suffix(".snap")
        source = f"<source file='{path}'/>"
        disks += f"<disk name='{target}' snapshot='{'external' if target in targets else 'no'}'>"
        disks += f"{source if target in targets else ''}</disk>"
    xml = f"<domainsnapshot><name>theirs</name><disks>{disks}</disks></domainsnapshot>"
    module = vm.machine.module
    flags = module.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | module.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
    vm.machine.domain.snapshotCreateXML(xml, flags)


def commit(vm, target, pivot=True):
    vm.machine.domain.blockCommit(target, None, None, 0, vm.machine.module.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
    wait_for(lambda: any(job["status"] == "ready" for job in vm.machine.qmp("query-jobs")), "the commit")
    if pivot:
        vm.machine.domain.blockJobAbort(target, vm.machine.module.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        wait_for(lambda: vm.machine.qmp("query-jobs") == [], "the pivot")


def test_a_snapshot_by_others_is_told_from_tracking_that_goes_on(protected):
    """libvirt gives the new image a bitmap of ours that begins empty: what came before must not be missed."""
    vm = protected
    vm.connect()
    vm.take()
    vm.write()
    snapshot(vm, ("vda", "vdb"))
    with pytest.raises(TrackingLost):
        vm.take()
    assert vm.connect() == {"vda": Lost.TRACKING_LOST, "vdb": Lost.TRACKING_LOST, "vdc": None}
    vm.write()
    vm.take()
    base = dict(vm.disks)
    vm.disks |= {target: (vm.disks[target][0].with_suffix(".snap"), "qcow2") for target in ("vda", "vdb")}
    vm.assert_same()
    # And back again: the round of the base is older than the one the replica is at.
    for target in ("vda", "vdb"):
        commit(vm, target)
    vm.disks = base
    vm.write()
    lost = vm.connect()
    vm.take()
    vm.assert_same()
    assert lost["vdc"] is None


def test_a_snapshot_committed_between_two_cycles_costs_nothing(protected):
    vm = protected
    vm.connect()
    vm.take()
    vm.write()
    snapshot(vm, ("vda", "vdb"))
    vm.write()
    commit(vm, "vda", pivot=False)
    with pytest.raises(DiskInUse, match="commit job of libvirt"):
        vm.take()
    with pytest.raises(DiskInUse):
        vm.connect()
    vm.machine.domain.blockJobAbort("vda", vm.machine.module.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
    wait_for(lambda: vm.machine.qmp("query-jobs") == [], "the pivot")
    commit(vm, "vdb")
    vm.write()
    assert set(vm.connect().values()) == {None}
    vm.take()
    vm.assert_same()


def test_internal_snapshots_can_still_be_gone_back_to(libvirtd, tmp_path):
    """QEMU refuses that for an image with bitmaps in it, and libvirt has ended the running one by then."""
    vm = Protected(libvirtd, tmp_path, {"vda": "qcow2"})
    try:
        vm.connect()
        vm.take()
        vm.machine.domain.resume()
        vm.machine.domain.snapshotCreateXML("<domainsnapshot><name>theirs</name></domainsnapshot>", 0)
        vm.write()
        vm.take()
        found = [one.problem for one in vm.hypervisor.check(vm.machine.name, tmp_path)]
        assert "qcow2 with internal snapshots keeps no change tracking when the machine is off" in found
        vm.machine.domain.revertToSnapshot(vm.machine.domain.snapshotLookupByName("theirs"))
        with pytest.raises(MachineUnreachable):
            vm.take()
        assert vm.connect() == {"vda": Lost.TRACKING_LOST}
        vm.take()
        vm.assert_same()
    finally:
        vm.close()


def test_inventory_events_and_a_disk_plugged_in(libvirtd, protected):
    vm = protected
    vm.connect()
    vm.take()
    seen = []

    def told(machine, event):
        seen.append((machine, event))

    def saw(event):
        return (vm.machine.name, event) in seen

    path = libvirtd.image(f"{vm.machine.name}-vdd", "qcow2")
    with vm.hypervisor.watching(told):
        vm.machine.domain.attachDevice(disk_xml("vdd", path, "qcow2"))
        wait_for(lambda: saw(Event.DEVICE_ADDED), "the device")
        names = [disk.id for disk in vm.hypervisor.describe(vm.machine.name).disks]
        (found,) = [one for one in vm.hypervisor.inventory() if one.name == vm.machine.name]
        assert (found.running, found.persistent, found.disks) == (True, True, ("vda", "vdb", "vdc", "vdd"))
        assert names == ["vda", "vdb", "vdc", "vdd"]
        # The others go on; the new one is taken in when it is asked for.
        vm.write("vda", "vdb", "vdc")
        vm.take()
        vm.assert_same()
        vm.machine.domain.destroy()
        wait_for(lambda: saw(Event.STOPPED), "the end")
        vm.machine.start()
        wait_for(lambda: saw(Event.STARTED), "the start")
    assert [disk.id for disk in vm.hypervisor.describe(vm.machine.name).disks] == ["vda", "vdb", "vdc"]


def test_what_a_machine_is_and_what_stands_against_protecting_it(protected):
    vm = protected
    found = vm.hypervisor.describe(vm.machine.name)
    assert found.uuid == vm.machine.domain.UUIDString()
    assert (found.memory, found.cpus, found.firmware) == (64 << 20, 1, "bios")
    assert [(disk.id, disk.size, disk.format, disk.bus) for disk in found.disks] == [
        ("vda", SIZE, "qcow2", "virtio"),
        ("vdb", SIZE, "raw", "virtio"),
        ("vdc", SIZE, "vhd", "virtio"),
    ]
    assert found.hypervisor_xml.startswith("<domain type='qemu'>")
    assert vm.hypervisor.describe(found.uuid) == found, "by its UUID too"
    findings = vm.hypervisor.check(vm.machine.name, vm.directory)
    assert not [one for one in findings if one.blocks]
    text = "\n".join(f"{one.subject}: {one.problem}" for one in findings)
    assert "disk vdb: raw keeps no change tracking" in text
    assert "disk vda" not in text
    assert "custom-monitor" in text
    assert "guest agent" in text
    with pytest.raises(MachineNotFound):
        vm.hypervisor.describe("nobody")


def test_a_machine_is_stopped_as_by_a_power_cut_with_its_last_writes_readable(protected):
    vm = protected
    vm.connect()
    vm.take()
    vm.machine.domain.resume()
    with vm.hypervisor.ending(vm.machine.name) as ending:
        assert not ending.shut_down(1.0), "libvirt would end its process with its guest"
        assert not ending.stopped()
        ending.stop()
        assert ending.stopped()
        vm.write()
        vm.take()
        vm.assert_same()
        ending.quit()
    assert not vm.machine.domain.isActive()


def test_a_libvirt_on_another_host_is_refused_before_anything_is_asked():
    with pytest.raises(InvalidRequest, match="on another host"):
        LibvirtHypervisor("qemu+ssh://elsewhere/system").machines()


def test_without_a_guest_agent_a_cut_is_crash_consistent_and_says_why(protected):
    vm = protected
    vm.connect()
    vm.take()
    notes = []
    vm.take(consistency=Consistency.APPLICATION, look=lambda cut: notes.append((cut.consistency, cut.note)))
    ((reached, note),) = notes
    assert reached is Consistency.CRASH
    assert "guest agent" in note


def test_virtnbdbackup_and_standby_work_side_by_side_and_both_restore_right(libvirtd, tmp_path):
    """20 cycles of both, in turns; each has bitmaps of its own, and the one NBD server is free for the other."""
    vm = Protected(libvirtd, tmp_path, {"vda": "qcow2", "vdb": "raw"})
    backup = libvirtd.images / "theirs"
    try:
        vm.connect()
        for number in range(20):
            vm.write(count=1)
            if number % 2:
                vm.take()
            back_up(vm, backup, number > 0)
            vm.take()
            vm.assert_same()
            assert vm.machine.leftovers() == []
        assert set(vm.connect().values()) == {None}
        restore = [
            "-o",
            libvirtd.images / "restored",
            "-f",
            libvirtd.images / "r.sock",
            "-L",
            libvirtd.images / "l",
        ]
        libvirtd.run("virtnbdrestore", "-n", "-i", backup, *restore)
        (restored,) = (libvirtd.images / "restored").glob("*vda")
        assert contents_of(restored, "qcow2") == contents_of(vm.disks["vda"][0], "qcow2")
        assert len(vm.machine.domain.listAllCheckpoints()) == 20
    finally:
        vm.close()


def back_up(vm, directory, incremental):
    images = vm.machine.daemon.images
    options = ["-d", vm.machine.name, "-l", "inc" if incremental else "full", "-o", directory]
    vm.machine.daemon.run(
        "virtnbdbackup", "-n", "-U", "qemu:///session", *options, "-S", images, "-f", images / "b.sock"
    )


def test_a_machine_that_moved_to_another_host_goes_on_there(libvirtd, tmp_path):
    """Over shared storage: bitmaps of qcow2 are in the image, those of raw stay behind. VHD cannot be moved."""
    vm = Protected(libvirtd, tmp_path, {"vda": "qcow2", "vdb": "raw"})
    vm.connect()
    vm.take()
    vm.write()
    other, seen = Libvirtd(), []
    module = vm.machine.module
    try:
        # The other side opens the images for good when the processors run there.
        vm.machine.domain.resume()
        with vm.hypervisor.watching(lambda machine, event: seen.append((machine, event))):
            vm.machine.domain.migrate3(
                other.host.raw,
                {module.VIR_MIGRATE_PARAM_URI: f"unix://{other.images}/move"},
                module.VIR_MIGRATE_LIVE | module.VIR_MIGRATE_UNSAFE | module.VIR_MIGRATE_PERSIST_DEST,
            )
            wait_for(lambda: (vm.machine.name, Event.MOVED) in seen, "the event")
        with pytest.raises(MachineUnreachable):
            vm.take()
        vm.hypervisor = LibvirtHypervisor(other.uri, limits=SMALL)
        here, vm.machine.daemon = vm.machine.daemon, other
        assert vm.connect() == {"vda": None, "vdb": Lost.TRACKING_LOST}
        vm.write()
        vm.take()
        vm.assert_same()
        vm.tracking.close()
        vm.tracking = None
        vm.machine.daemon = here
        vm.close()
    finally:
        other.close()


def test_two_relationships_of_one_machine_go_side_by_side(protected, tmp_path):
    vm = protected
    vm.connect()
    vm.take()
    (tmp_path / "other").mkdir()
    copies = cycle.create(tmp_path / "other", dict.fromkeys(vm.kinds, SIZE))
    second = vm.hypervisor.tracking(vm.machine.name, "second", tmp_path / "other")
    cycle.recover(second, copies)
    cycle.take(second, copies)
    vm.write()
    vm.take()
    vm.write()
    cycle.take(second, copies)
    vm.assert_same_as(copies)
    second.stop()
    second.close()
    vm.write()
    vm.take()
    vm.assert_same()
