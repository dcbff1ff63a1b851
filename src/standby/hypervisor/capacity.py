"""Whether this host can run a machine as it is described: programs, devices, memory."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

from standby.hypervisor.accelerator import Accelerator
from standby.hypervisor.host import DiskImage, Network, StartRefused
from standby.hypervisor.qemu_arguments import RunFiles, arguments
from standby.records import Finding, MachineDescription

_PROGRAMS: Final = {"qemu-system-x86_64": "qemu-system-x86", "qemu-img": "qemu-utils"}
_NOWHERE: Final = Path("/nowhere")


def check(
    description: MachineDescription, accelerator: Accelerator, meminfo: Path = Path("/proc/meminfo")
) -> list[Finding]:
    """Everything that stands against starting the machine on plain QEMU here, or limits it."""
    findings = [
        Finding(subject=program, problem="it is not installed", fix=f"apt install {package}", blocks=True)
        for program, package in _PROGRAMS.items()
        if not shutil.which(program)
    ]
    try:
        arguments(
            description,
            {disk.id: DiskImage(_NOWHERE, "raw") for disk in description.disks},
            {file.role: _NOWHERE for file in description.boot_files},
            RunFiles(_NOWHERE),
            tag="",
            network=Network.RESTRICTED,
            accelerator=accelerator,
        )
    except StartRefused as error:
        fix = error.hint or "start it on a host that supports this, or export its disks"
        findings.append(Finding(subject=error.subject, problem=error.cause, fix=fix, blocks=True))
    available = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    if available and int(available[1]) << 10 < description.memory:
        findings.append(
            Finding(
                subject=description.name,
                problem=f"it has {description.memory >> 20} MiB of memory, free are {int(available[1]) >> 10}",
                fix="expect it to be slow, or end something else first",
                blocks=False,
            )
        )
    return findings
