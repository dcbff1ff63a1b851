"""The prerequisites check of a QEMU process: everything that stands against protection, all at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from standby.block.chains import ChainFault, check_chain
from standby.errors import InvalidRequest, NeedsPerson, Recoverable
from standby.hypervisor.agent import GuestAgent, GuestAgentRefused, GuestAgentSilent
from standby.hypervisor.devices import iothread_of, shared_for_writing
from standby.hypervisor.exports import own_server, serve, speaks_nbd, stop_serving
from standby.hypervisor.inventory import FORMATS, OURS, SourceDisk, disks_of, is_flash
from standby.hypervisor.monitor import Monitor
from standby.hypervisor.scratch import CutLimits, free, needed
from standby.records import Finding

OLDEST = (7, 1)
"""The first QEMU whose exports show a bitmap of a named node (block-export-add, BlockDirtyBitmapOrStr)."""

UNSAFE_JOBS = frozenset({"mirror", "commit", "stream", "backup"})
"""Jobs of others beside which disks cannot be tracked."""

ChainProblems = Callable[[Path, str], Sequence[tuple[str, str]]]
"""What is wrong with the parents of the image at a path, of a format of QEMU's: (problem, fix) each."""


_FIXES: Final = {
    ChainFault.MISSING: "put the parent back, or merge the chain into one image",
    ChainFault.MISMATCHED: "put the right parent back",
    ChainFault.MODIFIED: "restore the parent as it was: what is below the child's changes is no longer right",
    ChainFault.UNREADABLE: "repair the image or its permissions",
    ChainFault.UNSUPPORTED: "convert the image to one that stands alone",
}


def image_chain_problems(path: Path, driver: str) -> Sequence[tuple[str, str]]:
    """What block/chains.py finds, with what to do about it."""
    return [(f"{found.file}: {found.cause}", _FIXES[found.fault]) for found in check_chain(path, driver)]


def survey(
    qmp: Monitor,
    *,
    scratch: Path,
    agent_problem: str,
    nbd: Path | None,
    limits: CutLimits,
    chain_problems: ChainProblems,
) -> list[Finding]:
    """All findings on one process, the blocking ones first. agent_problem: why no guest agent answers, or ""."""
    disks = disks_of(qmp)
    found = [
        *_version(qmp),
        *_disks(qmp, disks, chain_problems),
        *_others(qmp),
        *_server(qmp, nbd),
        *_room(qmp, scratch, [disk.size for disk in disks if not _left_out(disk)], limits),
        *_machine(qmp, agent_problem),
    ]
    return sorted(found, key=lambda finding: not finding.blocks)


def _version(qmp: Monitor) -> Iterator[Finding]:
    if qmp.version < OLDEST:
        yield Finding(
            subject=qmp.machine,
            problem=f"QEMU {'.'.join(map(str, qmp.version))} is too old to show what changed",
            fix=f"run the machine with QEMU {'.'.join(map(str, OLDEST))} or newer",
            blocks=True,
        )


def _disks(qmp: Monitor, disks: Sequence[SourceDisk], chain_problems: ChainProblems) -> Iterator[Finding]:
    if not any(not _left_out(disk) for disk in disks):
        yield Finding(
            subject=qmp.machine,
            problem="there is no writable disk",
            fix="attach a disk, or serve one by qemu-storage-daemon, and check again",
            blocks=True,
        )
    users = Counter(disk.node for disk in disks)
    for disk in disks:
        subject = f"{qmp.machine}, disk {disk.id}"
        if _left_out(disk):
            kind = "removable" if disk.removable else "read-only"
            yield Finding(
                subject=subject,
                problem=f"it is {kind} and is left out",
                fix="nothing, unless the machine needs it to run: then keep a copy at the recovery site",
                blocks=False,
            )
            continue
        yield from (_of_disk(qmp, subject, disk, shared=users[disk.node] > 1))
        if disk.path:
            for problem, fix in chain_problems(Path(disk.path), disk.driver):
                yield Finding(subject=subject, problem=problem, fix=fix, blocks=True)


def _of_disk(qmp: Monitor, subject: str, disk: SourceDisk, *, shared: bool) -> Iterator[Finding]:
    if not disk.supported:
        yield Finding(
            subject=subject,
            problem=f"its format {disk.driver!r} is not one that is tracked ({', '.join(FORMATS.values())})",
            fix="convert the image with qemu-img convert, or leave this disk out",
            blocks=True,
        )
    if thread := iothread_of(qmp, disk.device):
        yield Finding(
            subject=subject,
            problem=f"it is served by an I/O thread ({thread}): QEMU 7.2 aborts, and the machine with it, "
            "when a cut of such a disk is read",
            fix="start the machine without an iothread for this disk or its controller",
            blocks=True,
        )
    if shared or shared_for_writing(qmp, disk.device):
        yield Finding(
            subject=subject,
            problem="it is shared: writes of others would not be seen",
            fix="set share-rw=off and attach the image once, or leave this disk out",
            blocks=True,
        )
    if disk.supported and not disk.persistent:
        old = ""
        if disk.driver == "qcow2":
            old = " with internal snapshots" if disk.snapshots else " of the old version 0.10"
        yield Finding(
            subject=subject,
            problem=f"{disk.format}{old} keeps no change tracking when the machine is off",
            fix="nothing: after each start the disk is compared by hashes (reads it once); qcow2 avoids that",
            blocks=False,
        )


def _others(qmp: Monitor) -> Iterator[Finding]:
    for job in qmp.command("query-jobs"):
        if job["type"] in UNSAFE_JOBS and not job["id"].startswith(OURS):
            yield Finding(
                subject=qmp.machine,
                problem=f"a {job['type']} job ({job['id']}) runs on its disks",
                fix="wait until it has ended, or end it with block-job-cancel",
                blocks=True,
            )


def _server(qmp: Monitor, nbd: Path | None) -> Iterator[Finding]:
    ours = nbd is None and speaks_nbd(own_server(qmp.path))
    try:
        serve(qmp, nbd)
    except (Recoverable, NeedsPerson, InvalidRequest) as error:
        yield Finding(subject=qmp.machine, problem=error.cause, fix=error.hint, blocks=True)
        return
    if not ours:
        stop_serving(qmp, nbd)


def _room(qmp: Monitor, scratch: Path, sizes: Sequence[int], limits: CutLimits) -> Iterator[Finding]:
    try:
        have = free(scratch)
    except OSError as error:
        yield Finding(
            subject=str(scratch),
            problem=f"the scratch directory cannot be used: {error.strerror}",
            fix="make it, writable for this agent and for the user that QEMU runs as",
            blocks=True,
        )
        return
    want = needed(sizes, limits)
    if have < want:
        yield Finding(
            subject=str(scratch),
            problem=f"{have >> 20} MiB of scratch space are free, a cut needs {want >> 20} MiB",
            fix="free space on this volume or choose a scratch directory elsewhere",
            blocks=True,
        )


def _machine(qmp: Monitor, agent_problem: str) -> Iterator[Finding]:
    if not qmp.has("query-cpus-fast"):
        return
    if agent_problem:
        yield Finding(
            subject=qmp.machine,
            problem=f"{agent_problem}: points are crash-consistent only",
            fix="install qemu-guest-agent in the guest, give the machine its channel, name the socket here",
            blocks=False,
        )
    if any(is_flash(block) for block in qmp.command("query-block")):
        yield Finding(
            subject=qmp.machine,
            problem="it boots by UEFI, whose variables are not replicated",
            fix="nothing if the guest boots from the removable-media path; else keep a copy of the NVRAM",
            blocks=False,
        )


def agent_problem(machine: str, path: Path | None) -> str:
    """Why no guest agent answers at a socket; "" if one does."""
    if path is None:
        return "no guest agent socket is given"
    try:
        agent = GuestAgent(machine, path)
    except (GuestAgentSilent, GuestAgentRefused) as error:
        return error.cause
    agent.close()
    return ""


def _left_out(disk: SourceDisk) -> bool:
    return disk.read_only or disk.removable
