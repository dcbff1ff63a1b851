"""The steps of a failback: the old disks brought to the newest point, in overlays on them.

First while the recovered machine runs on elsewhere: every block that differs by hash is fetched. Then, once that
machine is sealed, only what changed since, told by the hashes of the two points. The machine starts on the
overlays; the old disks are not written to before the commit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from standby import failpoints
from standby.block import images
from standby.block.images import Format
from standby.clock import Clock
from standby.errors import InvalidRequest
from standby.hypervisor.host import DiskImage, RecoveryHost
from standby.objects.durable import sync
from standby.records import Finding
from standby.recovery import difference, run_directory
from standby.recovery.image_writer import opened
from standby.recovery.live_steps import CHECK, SOURCE_CHECK, SYNCHRONIZE, LiveOrder, Work
from standby.recovery.machine_steps import BOOT, HOLD, START, Copy, MachineSteps, never, overlay, so
from standby.recovery.prerequisites import NotReady
from standby.recovery.steps import Facts, State, Step, nothing
from standby.replica.documents import Record
from standby.replica.journal import add_hold, read_head

DATA_SYNCHRONIZATION: Final = "Data synchronization"

SOURCE: Final = "source"
COMPARE: Final = "compare"
FINAL: Final = "final"
"""Names of steps that others refer to. Before SOURCE it waits for somebody to complete it."""

SYNCED: Final = "synced.json"
COMPLETE: Final = "complete.json"

_COMPARED = failpoints.declare("failback.compared")
_BROUGHT = failpoints.declare("failback.brought")


class OldDisk(msgspec.Struct, frozen=True, kw_only=True):
    """A disk of the machine as it was left on this host. format: of block.images."""

    id: str
    path: str
    format: str


class FailbackOrder(LiveOrder, frozen=True, kw_only=True):
    """What a failback is told. seq: the point that the old disks are first brought to."""

    kind: str = "failback"
    seq: int
    old: tuple[OldDisk, ...]


class Synced(msgspec.Struct, frozen=True):
    """modified: of each old disk, when it was last written to (nanoseconds), as the overlays rely on it."""

    modified: tuple[int, ...]


class Complete(msgspec.Struct, frozen=True):
    """What was said when it was to be completed: see LiveOrder."""

    source_qmp: str
    confirmed: bool


class OldDiskChanged(InvalidRequest):
    """An old disk was written to since it was compared: what was fetched no longer fits it."""


class FailbackWork(Work):
    """One failback in its run directory."""

    def __init__(self, run: Path, order: FailbackOrder, host: RecoveryHost, clock: Clock) -> None:
        super().__init__(run, order, host, clock)
        self._failback = order
        self._machine = MachineSteps(run, order, self._copy, host, clock, order.manner, self._image)

    def steps(self) -> list[Step]:
        machine = {step.name: step for step in self._machine.steps()}
        return [
            Step("check", CHECK, self._check, nothing, never),
            Step(HOLD, DATA_SYNCHRONIZATION, self._hold_point, machine[HOLD].undo, self._holds),
            Step(COMPARE, DATA_SYNCHRONIZATION, self._compare, self._drop, self._compared),
            Step(SOURCE, SOURCE_CHECK, self._ask_source, self._forget_source, self._asked_source),
            *self._fence_steps(),
            Step(FINAL, SYNCHRONIZE, self._bring_on, nothing, self._brought_on),
            machine["boot files"],
            machine[START],
            machine[BOOT],
        ]

    def _check(self) -> None:
        if self._row(COMPARE).state is State.PENDING:
            self._check_old(self._log().point(str(self._failback.seq)))
        super()._check()

    def _check_old(self, record: Record) -> None:
        """Whether the old disks are those of the point. Raises NotReady."""
        findings = []
        given = {disk.id: disk for disk in self._failback.old}
        for state in record.disks:
            if state.id not in given:
                findings.append(_finding(state.id, "its old image is not named", f"--disk {state.id}=PATH"))
        for disk in self._failback.old:
            found = record.disk(disk.id)
            if found is None:
                findings.append(_finding(disk.id, "the point has no such disk", "leave it out"))
                continue
            if not Path(disk.path).is_file():
                findings.append(_finding(disk.id, f"there is no file {disk.path}", "name its image"))
                continue
            size = images.describe(Path(disk.path), Format(disk.format).driver).virtual_size
            if size != found.size:
                findings.append(
                    _finding(
                        disk.id,
                        f"its old image has {size} bytes, the point {found.size}",
                        "resize the image with qemu-img resize, or restore the disk as a whole",
                    )
                )
        if findings:
            raise NotReady(self._failback.machine, findings, "failback")

    def _hold_point(self) -> Facts:
        order = self._failback
        return {"held": int(add_hold(order.place_at(self._run), order.hold, order.seq, order.by))}

    def _holds(self) -> Facts | None:
        if self._row(FINAL).state is State.DONE:
            return {}
        head, _ = read_head(self._failback.place_at(self._run))
        return so(any(hold.id == self._failback.hold for hold in head.holds))

    def _compare(self) -> Facts:
        before = self._modified()
        fetched = 0
        log = self._log()
        for index, old in enumerate(self._failback.old):
            image = log.image(self._failback.seq, old.id)
            path = overlay(self._run, index)
            images.create_overlay(path, Path(old.path), Format(old.format), image.size)
            with opened(path, Format.QCOW2, image.size, writable=True) as disk:
                fetched += difference.bring_to(image, disk)
            sync(path)
            _COMPARED.reach()
        sync(self._run)
        run_directory.put(self._run / SYNCED, Synced(before))
        return {"fetched": fetched}

    def _compared(self) -> Facts | None:
        return so((self._run / SYNCED).exists())

    def _drop(self) -> None:
        (self._run / SYNCED).unlink(missing_ok=True)
        for index in range(len(self._failback.old)):
            merged_mark(self._run, index).unlink(missing_ok=True)
            overlay(self._run, index).unlink(missing_ok=True)

    def _ask_source(self) -> None:
        told = run_directory.find(self._run / COMPLETE, Complete)
        qmp = Path(told.source_qmp) if told and told.source_qmp else None
        self._judge_source(qmp, told is not None and told.confirmed)

    def _bring_on(self) -> Facts:
        self.refuse_changed()
        fetched = 0
        log = self._log()
        for index, old in enumerate(self._failback.old):
            before = log.image(self._failback.seq, old.id)
            image = log.image(self._copy().seq, old.id)
            with opened(overlay(self._run, index), Format.QCOW2, image.size, writable=True) as disk:
                fetched += difference.bring_on(before, image, disk)
            sync(overlay(self._run, index))
            _BROUGHT.reach()
        return {"last": fetched}

    def _brought_on(self) -> Facts | None:
        # Asked again it may have been written to by the guest: nothing but its own row may count.
        return so(self._row(FINAL).state is State.DONE)

    def _check_copy(self, record: Record) -> Copy:
        self._check_old(record)
        return super()._check_copy(record)

    def _image(self, index: int) -> DiskImage:
        wanted = self._copy().disks[index].id
        index, old = next((n, one) for n, one in enumerate(self._failback.old) if one.id == wanted)
        driver = Format(old.format).driver
        if merged_mark(self._run, index).exists():
            return DiskImage(Path(old.path), driver)
        self.refuse_changed(index)
        return DiskImage(overlay(self._run, index), "qcow2", base=(Path(old.path), driver))

    def _needs_store(self) -> bool:
        return self._row(START).state is State.PENDING

    def refuse_changed(self, index: int | None = None) -> None:
        """Raises OldDiskChanged if an old disk (all of them) is not as it was compared."""
        synced = run_directory.find(self._run / SYNCED, Synced)
        if synced is None or merging_mark(self._run).exists():
            return
        now = self._modified()
        for number, (then, found) in enumerate(zip(synced.modified, now, strict=True)):
            if index in (None, number) and then != found:
                raise OldDiskChanged(
                    "it was written to since it was compared: somebody has used it",
                    subject=self._failback.old[number].path,
                    tried="nothing was started",
                    hint=f"end who uses it, then `standby failover cancel {self._run}` and fail back anew",
                )

    def _modified(self) -> tuple[int, ...]:
        return tuple(Path(old.path).stat().st_mtime_ns for old in self._failback.old)


def merging_mark(run: Path) -> Path:
    """A file that tells that overlays are being merged: the old disks are written to from here on."""
    return run / "merging"


def merged_mark(run: Path, index: int) -> Path:
    """A file that tells that the disk's overlay is in the old disk, durably, and no longer used."""
    return run / f"{index}.merged"


def _finding(disk: str, problem: str, fix: str) -> Finding:
    return Finding(subject=f"disk {disk}", problem=problem, fix=fix, blocks=True)
