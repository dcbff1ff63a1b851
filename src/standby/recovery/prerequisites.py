"""What stands against starting a point's machine on this host: all of it, at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from standby.errors import InvalidRequest, StandbyError
from standby.hypervisor.host import RecoveryHost
from standby.objects.base import ObjectMissing
from standby.records import Finding, MachineDescription
from standby.replica import boot
from standby.replica.documents import Record
from standby.replica.journal import Place, read_head

SOCKET_PATH_LIMIT: Final = 107
"""unix(7): sun_path, less its final zero byte."""
LONGEST_SOCKET: Final = "machine/control.sock"
LEAST_ROOM: Final = 256 << 20
"""Bytes that a machine needs at least for what it writes while it starts."""


class NotReady(InvalidRequest):
    """Something stands against it; `findings` lists all of it."""

    def __init__(self, machine: str, findings: Sequence[Finding], job: str) -> None:
        self.findings = tuple(findings)
        super().__init__(
            "; ".join(f"{one.subject}: {one.problem} ({one.fix})" for one in findings if one.blocks),
            subject=f"{machine}, prerequisites check for {job}",
            hint=f"correct these and start the {job} again",
        )


class PointNotBootable(InvalidRequest):
    """The record does not describe a machine, so there is nothing to start; its disks can be exported."""


def machine_at(record: Record, subject: str) -> MachineDescription:
    """The machine of a point. Raises PointNotBootable."""
    if record.machine is None:
        raise PointNotBootable(
            f"point {record.seq} does not describe its machine",
            subject=subject,
            hint="choose a newer point, or take its disks with `standby replica restore`",
        )
    return record.machine


def check(
    place: Place, record: Record, description: MachineDescription, host: RecoveryHost, run: Path
) -> list[Finding]:
    """description: as it will be started, with only the disks that the point has."""
    source = machine_at(record, place.name)
    findings = [
        Finding(
            subject=f"disk {disk.id}",
            problem="it is not protected",
            fix="the machine starts without it",
            blocks=False,
        )
        for disk in source.disks
        if record.disk(disk.id) is None
    ]
    findings += host.check(description)
    if not shutil.which("nbdkit"):
        findings.append(
            Finding(
                subject="nbdkit",
                problem="it is not installed",
                fix="apt install nbdkit nbdkit-plugin-python",
                blocks=True,
            )
        )
    findings += _boot_files(place, description)
    findings += _room(record, run)
    too_long = len(os.fsencode(run / LONGEST_SOCKET)) - SOCKET_PATH_LIMIT
    if too_long > 0:
        findings.append(
            Finding(
                subject=str(run),
                problem=f"its path is {too_long} bytes too long for the sockets in it",
                fix="give a run directory with a shorter path",
                blocks=True,
            )
        )
    return findings


def _boot_files(place: Place, description: MachineDescription) -> list[Finding]:
    findings: list[Finding] = []
    if not description.boot_files:
        return findings
    cipher = place.unlocked(read_head(place)[0])
    for file in description.boot_files:
        name = place.below(boot.name_of(file, cipher))
        try:
            size, wanted = place.store.size(name), boot.size_of(file, cipher)
            problem = "" if size == wanted else f"it has {size} bytes, not {wanted}"
        except ObjectMissing:
            problem = "it is not in the store"
        except StandbyError as error:
            problem = str(error)
        if problem:
            findings.append(
                Finding(
                    subject=f"the machine's {file.role}, {place.subject(name)}",
                    problem=problem,
                    fix="`standby replica verify`; a point with another kernel may be whole",
                    blocks=True,
                )
            )
    return findings


def _room(record: Record, run: Path) -> list[Finding]:
    free = shutil.disk_usage(run).free
    if free < LEAST_ROOM:
        return [
            Finding(
                subject=str(run),
                problem=f"it has {free >> 20} MiB free, a machine needs at least {LEAST_ROOM >> 20}",
                fix="free space there, or give another run directory",
                blocks=True,
            )
        ]
    whole = sum(disk.size for disk in record.disks)
    if free < whole:
        return [
            Finding(
                subject=str(run),
                problem=f"it has {free >> 20} MiB free, the disks have {whole >> 20}",
                fix="watch its space: what the machine reads and writes is kept there",
                blocks=False,
            )
        ]
    return []
