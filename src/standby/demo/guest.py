"""The demo's guest: its parts from the machine's own packages, and what is asked of it once it runs."""

from __future__ import annotations

import gzip
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from standby.demo import content, initramfs, stamps
from standby.demo.content import DataDisk, DiskPlan
from standby.errors import Damaged, NeedsPerson
from standby.hypervisor.host import Executed, RunningMachine
from standby.records import BootFile, DiskDescription, MachineDescription

MEMORY: Final = 512 << 20
CPUS: Final = 2

_CMDLINE: Final = (
    "console=ttyS0 quiet panic=-1"
    # What an emulated processor is slow at, and this guest does without: 0.5 s of 2.3 until it is ready.
    " mitigations=off nokaslr no_timer_check tsc=reliable cryptomgr.notests"
)


class GuestFailed(NeedsPerson):
    """A command inside the demo's guest failed that always works."""


class ContentDamaged(Damaged):
    """Files in the guest are not those that its manifest lists."""


class Guest(NamedTuple):
    """A guest ready to be started: kernel, initramfs and data disks in a cache."""

    kernel: Path
    initrd: Path
    disks: tuple[DataDisk, ...]

    @property
    def boot_files(self) -> Mapping[str, Path]:
        return {"kernel": self.kernel, "initrd": self.initrd}

    def describe(self, name: str, *, stamps_per_second: int | None = None) -> MachineDescription:
        """The machine; its disks are `disk0`, `disk1`, ... in order, as /dev/vda, /dev/vdb, ... within.

        stamps_per_second: 0 is as fast as it goes, None writes none (for a copy that is to be checked).
        """
        stamping = "" if stamps_per_second is None else f" standby.stamp={stamps_per_second}"
        return MachineDescription(
            name=name,
            uuid=str(uuid.uuid4()),
            memory=MEMORY,
            cpus=CPUS,
            firmware="kernel",
            disks=tuple(
                DiskDescription(id=f"disk{index}", size=disk.size, format=disk.format, path=str(disk.path))
                for index, disk in enumerate(self.disks)
            ),
            boot_files=(_boot_file("kernel", self.kernel), _boot_file("initrd", self.initrd)),
            kernel_cmdline=f"{_CMDLINE}{stamping}",
        )


def build(cache: Path, plans: Sequence[DiskPlan]) -> Guest:
    """The guest, from `cache` as far as that has it. Raises PackageMissing, NoContent."""
    kernel = initramfs.newest_kernel()
    archive = initramfs.build(kernel)
    parts = {"vmlinuz": kernel.image.read_bytes(), "initrd": archive}
    digest = hashlib.sha256(b"".join(parts.values())).hexdigest()
    directory = cache / f"boot-{digest[:16]}"
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in parts.items():
        if not (directory / name).exists():
            fresh = directory / f"{name}.{uuid.uuid4().hex}"
            fresh.write_bytes(data)
            fresh.replace(directory / name)
    return Guest(directory / "vmlinuz", directory / "initrd", tuple(content.build(cache, plans)))


def run(machine: RunningMachine, command: str, limit: float = 60.0) -> bytes:
    """What a shell command prints in the guest. Raises GuestFailed when its status is not 0."""
    done = machine.execute(["/bin/sh", "-c", command], limit)
    if done.status:
        raise _failed(machine, command, done)
    return done.output


def newest_stamp(machine: RunningMachine) -> int:
    """The number of the newest stamp that completed; 0 before the first."""
    # The file is there, and empty, while the first is being written.
    return int(run(machine, "cat /run/stamp 2>/dev/null || true").strip() or 0)


def stop_stamps(machine: RunningMachine) -> None:
    """End the guest's stamp writer; its last write completes or never began."""
    run(machine, "killall -KILL stamp && while pidof stamp >/dev/null; do sleep 0.1; done")


def stamp_prefix(machine: RunningMachine) -> int:
    """`stamps.prefix` of the disks as the guest sees them. It must not be writing stamps.

    Raises NotAPrefix.
    """
    areas = []
    for index, disk in enumerate(machine.description.disks):
        area = stamps.area_of(disk.size)
        device = f"/dev/vd{chr(ord('a') + index)}"
        skip, count = area.offset // stamps.SLOT, area.length // stamps.SLOT
        read = f"dd if={device} bs={stamps.SLOT} skip={skip} count={count} | gzip -1"
        areas.append(gzip.decompress(run(machine, read)))
    return stamps.prefix(areas)


def check_files(machine: RunningMachine, limit: float = 300.0) -> int:
    """Compare the files of all disks, side by side, with their manifests; how many are right.

    Raises ContentDamaged, naming files.
    """
    checks = " & ".join(
        f"(cd /disk/{index} && /bin/md5sum -c {content.MANIFEST} >/run/check.{index} 2>&1)"
        for index in range(len(machine.description.disks))
    )
    run(machine, f"{checks} & wait", limit)
    wrong = run(machine, "grep -hv ': OK$' /run/check.* | head -n 10; true").decode()
    right = int(run(machine, "cat /run/check.* | grep -c ': OK$'; true"))
    wanted = int(run(machine, f"cat /disk/*/{content.MANIFEST} | wc -l"))
    if wrong or right != wanted:
        raise ContentDamaged(
            f"{right} of {wanted} files are as in the manifest; md5sum says: {'; '.join(wrong.splitlines())}",
            subject=machine.description.name,
            hint="keep the replica and the overlay, run `standby replica verify`, and file a defect",
        )
    return right


def _boot_file(role: str, path: Path) -> BootFile:
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return BootFile(role="kernel" if role == "kernel" else "initrd", sha256=digest, size=len(data))


def _failed(machine: RunningMachine, command: str, done: Executed) -> GuestFailed:
    return GuestFailed(
        f"`{command}` ended with status {done.status}: {done.errors.decode(errors='replace').strip()}",
        subject=machine.description.name,
        hint=f"read the guest's console, {machine.console_log}",
    )
