"""What test failovers leave on a host, and a machine that starts at once because it does not boot."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path

from standby.demo.initramfs import newest_kernel
from standby.records import BootFile, DiskDescription, MachineDescription
from standby.replica.format import BLOCK
from tests.recovery.conftest import Replica
from tests.support.replicas import ModelDisk

SIZE = 16 * BLOCK


def bootless(replica: Replica, folder: Path, sizes: tuple[int, ...] = (SIZE, SIZE)) -> int:
    """A point of a machine with a real kernel and nothing behind it; its number."""
    files = {"kernel": newest_kernel().image, "initrd": folder / "initrd"}
    files["initrd"].write_bytes(b"no initrd at all")
    disks = []
    for index, size in enumerate(sizes):
        # Its bytes are stored for the part that has any; the rest of the disk is thin.
        disk = ModelDisk(f"disk{index}", min(size, SIZE))
        disk.write(0, bytes([index + 1]) * (3 * BLOCK))
        disk.size = size
        disks.append(disk)
    machine = MachineDescription(
        name="web",
        uuid=str(uuid.uuid4()),
        memory=96 << 20,
        cpus=1,
        firmware="kernel",
        disks=tuple(DiskDescription(id=disk.id, size=disk.size, format="raw") for disk in disks),
        boot_files=tuple(
            BootFile(role=role, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for role, data in ((role, path.read_bytes()) for role, path in files.items())
        ),
        kernel_cmdline="console=ttyS0 quiet",
    )
    return replica.commit_machine(machine, files, *disks)


def processes(mark: Path) -> list[str]:
    """The command lines of all processes but this one that name the path."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(mark) in line:
                found.append(line)
    return found


def assert_nothing_left(replica: Replica, root: Path) -> None:
    assert processes(root) == []
    assert [path.name for path in root.iterdir()] == [".lock"]
    assert replica.head.holds == ()
