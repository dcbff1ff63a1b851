"""What a machine is and what stands against protecting it, asked of real QEMU processes without a guest."""

from __future__ import annotations

import hashlib
import subprocess

import pytest

from standby.hypervisor.base import Consistency, DiskUnsuitable, MachineNotFound
from standby.hypervisor.findings import survey
from standby.hypervisor.inventory import disks_of
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.hypervisor.scratch import CutLimits
from standby.records import DiskDescription, NicDescription
from tests.hypervisor.processes import FORMATS, SIZE, SMALL, Daemon, Process

pytestmark = pytest.mark.slow


class Machine(Process):
    """A qemu-system process whose processors never start."""

    def __init__(self, directory, *arguments, images=(("a", "qcow2"),)):
        for name, kind in images:
            subprocess.run(["qemu-img", "create", "-q", "-f", kind, directory / name, str(SIZE)], check=True)
        fixed = ["qemu-system-x86_64", "-accel", "tcg", "-S", "-nodefaults", "-display", "none"]
        fixed += ["-m", "64", "-smp", "2"]
        for name in ("qmp", "own"):
            fixed += ["-qmp", f"unix:{name},server=on,wait=off"]
        super().__init__(directory, [*fixed, *arguments])

    def hypervisor(self, agent=None, **more):
        return QemuHypervisor({"vm": QemuMachine(self.qmp, agent)}, limits=more.pop("limits", SMALL), **more)


@pytest.fixture
def start(tmp_path):
    started = []

    def run(*arguments, **more):
        started.append(Machine(tmp_path, *arguments, **more))
        return started[-1]

    yield run
    for machine in started:
        machine.stop()


def drive(name, kind, **more):
    options = "".join(f",{key.replace('_', '-')}={value}" for key, value in more.items())
    return ["-blockdev", f"driver={kind},node-name={name},file.driver=file,file.filename={name}{options}"]


def problems(hypervisor, scratch):
    """(subject's last word, problem, blocks) of each finding."""
    return [
        (finding.subject.split()[-1], finding.problem, finding.blocks)
        for finding in hypervisor.check("vm", scratch)
    ]


def about(found, text):
    return [(subject, blocks) for subject, problem, blocks in found if text in problem]


def test_describes_a_machine_so_that_it_can_be_built_again(start, tmp_path):
    for name in ("vmlinuz", "initrd"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    # QEMU reads the kernel's header at once (Linux, Documentation/arch/x86/boot.rst), so it must have one.
    header = bytearray(64 << 10)
    header[0x1F1], header[0x1FE:0x200], header[0x202:0x206] = 1, b"\x55\xaa", b"HdrS"
    header[0x206:0x208] = b"\x06\x02"
    header[0x22C:0x230] = b"\xff\xff\xff\x7f"  # initrd_addr_max
    (tmp_path / "vmlinuz").write_bytes(header)
    machine = start(
        *("-name", "web1", "-uuid", "6c1dbf0e-0000-4000-8000-000000000001"),
        *("-kernel", "vmlinuz", "-initrd", "initrd", "-append", "quiet"),
        *drive("a", "qcow2"),
        *("-device", "virtio-blk-pci,drive=a,id=data0"),
        *drive("b", "vhdx"),
        *("-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=b,id=data1"),
        *("-drive", "file=c,format=raw,if=virtio,id=old"),
        *("-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n,mac=52:54:00:00:00:01,id=nic0"),
        *("-device", "scsi-cd,id=cd"),
        images=(("a", "qcow2"), ("b", "vhdx"), ("c", "raw")),
    )
    hypervisor = machine.hypervisor()
    described = hypervisor.describe("vm")
    assert (described.name, described.uuid) == ("web1", "6c1dbf0e-0000-4000-8000-000000000001")
    assert (described.memory, described.cpus, described.firmware) == (64 << 20, 2, "kernel")
    assert described.kernel_cmdline == "quiet"
    assert described.disks == (
        DiskDescription(id="data0", size=SIZE, format="qcow2", path=str(tmp_path / "a")),
        DiskDescription(id="data1", size=SIZE, format="vhdx", path=str(tmp_path / "b"), bus="scsi"),
        DiskDescription(id="old", size=SIZE, format="raw", path=str(tmp_path / "c")),
    )
    assert described.nics == (NicDescription(mac="52:54:00:00:00:01"),)
    assert {file.role: file.sha256 for file in described.boot_files} == {
        "kernel": hashlib.sha256(header).hexdigest(),
        "initrd": hashlib.sha256(b"initrd" * 1000).hexdigest(),
    }
    assert hypervisor.boot_files("vm") == {"kernel": tmp_path / "vmlinuz", "initrd": tmp_path / "initrd"}


def test_tracks_a_machine_with_our_own_nbd_server(start, scratch):
    machine = start(*drive("a", "qcow2"), "-device", "virtio-blk-pci,drive=a,id=data0")
    tracking = machine.hypervisor().tracking("vm", "rel", scratch)
    tracking.recover(0, {"data0": SIZE})
    tracking.begin(1, ["data0"])

    def write(command):
        device = "/machine/peripheral/data0/virtio-backend"
        refused = machine.control.command(
            "human-monitor-command", command_line=f'qemu-io -d {device} "{command}"'
        )
        assert refused == ""

    write("write -P 7 1M 4k")
    with tracking.cut(2, Consistency.CRASH) as cut:
        write("write -P 8 1M 4k")
        disk, dirty = cut.disks["data0"]
        data = bytearray(4096)
        disk.read(1 << 20, memoryview(data))
        assert (dirty, bytes(data)) == ([(1 << 20, 4096)], b"\x07" * 4096)
    tracking.stop()
    tracking.close()


def test_daemon_disks_are_found_below_filters_of_others(tmp_path, scratch):
    daemon = Daemon(
        tmp_path,
        extra=[
            *("--object", "throttle-group,id=group"),
            *("--blockdev", "driver=throttle,node-name=slow,throttle-group=group,file=vhdx"),
            *("--blockdev", "driver=raw,node-name=top,file=slow"),
        ],
        serve=False,
    )
    try:
        described = daemon.hypervisor().describe("vm")
        assert {disk.id: disk.format for disk in described.disks} == {
            "fixed": "vhd",
            "dynamic": "vhd",
            "qcow": "qcow2",
            "raw": "raw",
            "vhdx": "vhdx",
        }
        assert (described.memory, described.cpus) == (0, 0)
        tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
        tracking.recover(0, dict.fromkeys(FORMATS, SIZE))
        tracking.begin(1, ["vhdx"])
        assert daemon.bitmaps() == [("vhdx", "standby-rel-1")]
        assert [disk.id for disk in disks_of(daemon.control)] == sorted(FORMATS), "the same while tracked"
        tracking.close()
    finally:
        daemon.stop()


def test_machine_nobody_knows(tmp_path):
    with pytest.raises(MachineNotFound, match="looking among vm"):
        QemuHypervisor({"vm": QemuMachine(tmp_path / "qmp")}).describe("other")


def test_all_findings_are_told_at_once(start, scratch, tmp_path):
    (tmp_path / "odd").write_bytes(bytes(SIZE + 100))
    machine = start(
        *("-object", "iothread,id=io0"),
        *drive("a", "qcow2"),
        *("-device", "virtio-blk-pci,drive=a,id=threaded,iothread=io0"),
        *drive("b", "raw"),
        *("-device", "virtio-scsi-pci,id=bus,iothread=io0", "-device", "scsi-hd,drive=b,id=behind,bus=bus.0"),
        *drive("c", "raw"),
        *("-device", "virtio-blk-pci,drive=c,id=shared,share-rw=on"),
        *drive("d", "vmdk"),
        *("-device", "virtio-blk-pci,drive=d,id=alien"),
        *drive("e", "raw", read_only="on"),
        *("-device", "virtio-blk-pci,drive=e,id=fixed"),
        *drive("f", "raw", read_only="on"),
        *("-device", "virtio-scsi-pci,id=other", "-device", "scsi-cd,drive=f,id=cd,bus=other.0"),
        *drive("g", "qcow2"),
        *("-device", "virtio-blk-pci,drive=g,id=good"),
        images=[(n, {"a": "qcow2", "d": "vmdk", "g": "qcow2"}.get(n, "raw")) for n in "abcdefg"],
    )
    gone = [("its parent is gone", "bring it back")]
    hypervisor = machine.hypervisor(
        chain_problems=lambda path, kind: gone if (path.name, kind) == ("g", "qcow2") else []
    )
    found = problems(hypervisor, scratch)
    assert about(found, "I/O thread") == [("behind", True), ("threaded", True)]
    assert about(found, "is shared") == [("shared", True)]
    assert about(found, "'vmdk'") == [("alien", True)]
    assert about(found, "its parent is gone") == [("good", True)]
    assert sorted(about(found, "left out")) == [("cd", False), ("fixed", False)]
    assert about(found, "no guest agent socket is given") == [("vm", False)]
    assert about(found, "keeps no change tracking") == [("behind", False), ("shared", False)]
    assert len(found) == 10
    assert [blocks for *_, blocks in found] == sorted((blocks for *_, blocks in found), reverse=True)

    tracking = hypervisor.tracking("vm", "rel", scratch)
    tracking.recover(0, {"threaded": SIZE})
    for name in ("threaded", "behind", "shared", "alien", "fixed", "cd"):
        with pytest.raises(DiskUnsuitable, match=f"disk {name}"):
            tracking.begin(1, [name])
    tracking.close()


def test_nothing_stands_against_a_good_machine(start, scratch, agent):
    machine = start(*drive("a", "qcow2"), "-device", "virtio-blk-pci,drive=a,id=data0")
    assert problems(machine.hypervisor(agent.path), scratch) == []
    assert machine.control.command("query-block-exports") == []
    machine.control.command(  # the check's trial left no server behind
        "nbd-server-start", addr={"type": "unix", "data": {"path": "theirs"}}
    )
    assert about(problems(machine.hypervisor(agent.path), scratch), "already serves NBD") == [("vm", True)]


def test_machine_without_a_disk_firmware_flash_and_a_silent_agent(start, scratch, agent, tmp_path):
    (tmp_path / "flash").write_bytes(bytes(1 << 20))
    machine = start("-drive", "if=pflash,format=raw,file=flash,unit=0")
    agent.silent = {"guest-sync-delimited"}
    found = problems(machine.hypervisor(agent.path), scratch)
    assert about(found, "no writable disk") == [("vm", True)]
    assert about(found, "boots by UEFI") == [("vm", False)]
    assert about(found, "silent") == [("vm", False)]
    assert machine.hypervisor().describe("vm").firmware == "uefi"


def test_findings_on_size_space_version_jobs_and_servers(tmp_path, scratch):
    daemon = Daemon(tmp_path, {"qcow": FORMATS["qcow"]})
    try:
        huge = CutLimits(reserve=1 << 60)
        assert about(problems(daemon.hypervisor(limits=huge), scratch), "of scratch space are free")
        missing = problems(daemon.hypervisor(), scratch / "missing")
        assert [blocks for _, blocks in about(missing, "cannot be used")] == [True]
        daemon.control.command("blockdev-add", driver="null-co", node_name="target", size=SIZE)
        daemon.control.command(
            "blockdev-backup", job_id="theirs", device="qcow", target="target", sync="none"
        )
        assert about(problems(daemon.hypervisor(), scratch), "a backup job (theirs)") == [("vm", True)]
        daemon.control.command("job-cancel", id="theirs")

        class Old:
            version = (6, 2, 0)

            def __getattr__(self, name):
                return getattr(daemon.control, name)

        found = survey(
            Old(),
            scratch=scratch,
            agent_problem="",
            nbd=tmp_path / "nobody",
            limits=SMALL,
            chain_problems=lambda *_: (),
        )
        assert [finding.problem.split(str(tmp_path))[0] for finding in found if finding.blocks] == [
            "QEMU 6.2.0 is too old to show what changed",
            "no NBD server answers at ",
        ]
    finally:
        daemon.stop()
