"""One instant across all disks of a machine: opened, watched, and released."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from standby.block.nbd import NbdDisk
from standby.clock import Clock
from standby.errors import StandbyError
from standby.failpoints import declare
from standby.hypervisor.agent import GuestAgentRefused, GuestAgentSilent
from standby.hypervisor.base import Consistency, CutBroken, MachineUnreachable, Round
from standby.hypervisor.exports import Exports
from standby.hypervisor.fleece import Fleece
from standby.hypervisor.freeze import Freeze
from standby.hypervisor.inventory import SourceDisk
from standby.hypervisor.latency import WriteLatency
from standby.hypervisor.meeting import Meeting
from standby.hypervisor.monitor import Event, Monitor
from standby.hypervisor.rounds import Rounds
from standby.hypervisor.scratch import CutLimits, ScratchFiles, check_room, free
from standby.hypervisor.thawer import ThawerMissing

log = logging.getLogger(__name__)

_scratch_ready = declare("cut.scratch_ready")
_frozen = declare("cut.frozen")
_instant = declare("cut.instant")
_thawed = declare("cut.thawed")
_exported = declare("cut.exported")
_released = declare("cut.released")


class Cutter:
    """What a cut needs beside its disks; one for each tracking."""

    def __init__(
        self,
        qmp: Monitor,
        rounds: Rounds,
        exports: Exports,
        files: ScratchFiles,
        limits: CutLimits,
        clock: Clock,
        prefix: str,
    ) -> None:
        self.qmp = qmp
        self.rounds = rounds
        self.exports = exports
        self.files = files
        self.limits = limits
        self.clock = clock
        self._prefix = prefix

    def open(
        self,
        disks: Sequence[SourceDisk],
        number: int,
        freeze: Freeze | None,
        note: str,
        meeting: Meeting | None = None,
    ) -> QemuCut:
        """Begin round `number` on the disks and show the instant at which it began.

        freeze: to be held at the instant; `note` says why there is none although it was asked for. meeting: with
        the cuts of other machines, if all can be frozen at once.
        Raising, it leaves the rounds as they were.
        """
        if meeting:
            self._ask(meeting, freeze, note)
        ended = {disk.id: self.rounds.current(disk) for disk in disks}
        check_room(self.qmp.machine, self.files.directory, [disk.size for disk in disks], self.limits)
        fleece = Fleece(self.qmp, self.exports, self.files, self._prefix, disks)
        cut = QemuCut(self, fleece)
        with contextlib.ExitStack() as undo:
            undo.callback(fleece.end)
            fleece.prepare()
            _scratch_ready.reach()
            if meeting:
                meeting.ready(self.qmp.machine)
            held, note = self._begin_freeze(freeze, note)
            try:
                if meeting:
                    self._vote(meeting, held, note)
                self.rounds.run(
                    [
                        *(self.rounds.add(disk, number) for disk in disks),
                        *fleece.actions(),
                        *(self.rounds.end(disk, ended[disk.id]) for disk in disks),
                    ]
                )
                cut.begun()
                # In this order: a bitmap that an export shows cannot be folded.
                undo.callback(self._undo_round, disks, ended, number)
                undo.callback(fleece.end)
                undo.callback(cut.unwatch)
                _instant.reach()
                if meeting:
                    self._vote(meeting, held, note)
            finally:
                if freeze and not freeze.end() and held:
                    held = False
                    note = f"the guest was not surely frozen at the instant (limit {freeze.limit:g} s)"
            _thawed.reach()
            cut.consistency = Consistency.APPLICATION if held else Consistency.CRASH
            if meeting:
                cut.group = meeting.id if self._vote(meeting, held, note) else ""
                note = note or (f"no instant in common: {meeting.why}" if not cut.group else "")
            cut.note = note
            names = {disk.id: self.rounds.name(disk, ended[disk.id]) for disk in disks}
            try:
                for identity, export in fleece.show(names).items():
                    cut.open(identity, self.exports.open(export, names[identity]))
            except StandbyError as error:
                if (broken := cut.broken()) is not None:
                    raise broken from error
                raise
            _exported.reach()
            undo.pop_all()
        return cut

    def _ask(self, meeting: Meeting, freeze: Freeze | None, note: str) -> None:
        """That it cannot be frozen is to be known before others are."""
        try:
            if freeze:
                freeze.ask()
                return
        except GuestAgentSilent as error:
            note = error.cause
        meeting.leave(self.qmp.machine, f"cannot be frozen: {note}")

    def _vote(self, meeting: Meeting, held: bool, note: str) -> bool:
        """Whether all machines are frozen now. One that is not lets the others go on without it."""
        if not held:
            meeting.leave(self.qmp.machine, f"was not frozen: {note}")
        return meeting.agree(self.qmp.machine)

    def _begin_freeze(self, freeze: Freeze | None, note: str) -> tuple[bool, str]:
        if freeze is None:
            return False, note
        try:
            freeze.begin()
        except (GuestAgentSilent, GuestAgentRefused, ThawerMissing) as error:
            return False, str(error)
        try:
            _frozen.reach()
        except BaseException:
            freeze.end()
            raise
        return True, ""

    def _undo_round(self, disks: Sequence[SourceDisk], ended: Mapping[str, int], number: int) -> None:
        self.qmp.transaction(
            [action for disk in disks for action in self.rounds.fold(disk, ended[disk.id], [number])]
        )


class QemuCut:
    """A `Cut`. A thread watches what it costs, and gives it up for the guest's sake."""

    def __init__(self, cutter: Cutter, fleece: Fleece) -> None:
        self.at: datetime
        self.consistency = Consistency.CRASH
        self.note = ""
        self.group = ""
        self._cutter = cutter
        self._fleece = fleece
        self._opened = 0.0
        self._rounds: dict[str, Round] = {}
        self._handles: list[NbdDisk] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._broken = ""

    @property
    def disks(self) -> Mapping[str, Round]:
        return self._rounds

    def release(self) -> None:
        """See `Cut`. With the machine out of reach what was read stays right, and `recover` cleans up."""
        with self._lock:
            if not self._ended.is_set():
                self._ended.set()
                self._close()
                try:
                    if not self._fleece.end():
                        self._broken = "its job ended before the cut was released"
                except MachineUnreachable as error:
                    log.warning("cut left open: %s", error)
                _released.reach()
        if (broken := self.broken()) is not None:
            raise broken

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def begun(self) -> None:
        """The instant is now; from here on the guest pays, and the watch runs."""
        self.at = self._cutter.clock.now()
        self._opened = self._cutter.clock.monotonic()
        threading.Thread(target=self._watch, name="standby-cut-watch", daemon=True).start()

    def open(self, identity: str, disk: NbdDisk) -> None:
        """Take the snapshot of one disk in."""
        self._handles.append(disk)
        self._rounds[identity] = Round(disk, disk.dirty())

    def broken(self) -> CutBroken | None:
        """The error to raise if the cut was given up."""
        if not self._broken:
            return None
        return CutBroken(
            f"the cut was given up: {self._broken}",
            subject=self._cutter.qmp.machine,
            tried="nothing further: the guest comes first; what was read is dropped",
            hint="the next cycle takes these changes along; if it repeats, look at the machine's storage, or give more "
            "scratch space",
        )

    def unwatch(self) -> None:
        """End the watch without ending the cut; the handles are closed."""
        with self._lock:
            self._ended.set()
            self._close()

    def _close(self) -> None:
        for disk in self._handles:
            disk.close()

    def _watch(self) -> None:
        qmp, jobs = self._cutter.qmp, set(self._fleece.jobs)

        def ends(event: Event) -> bool:
            return event["event"] == "JOB_STATUS_CHANGE" and (
                event["data"]["id"] in jobs and event["data"]["status"] in ("aborting", "concluded", "null")
            )

        try:
            latency = WriteLatency(qmp, self._cutter.limits)
            with qmp.listening() as events:
                reason = ""
                while not reason and not self._ended.is_set():
                    if events.wait(ends, self._cutter.limits.interval):
                        reason = "its job was cancelled by somebody else"
                    try:
                        reason = reason or self._too_much() or latency.too_long()
                    except OSError as error:
                        reason = f"the scratch volume cannot be looked at: {error}"
                with self._lock:
                    if reason and not self._ended.is_set():
                        self._ended.set()
                        self._broken = reason
                        log.warning("%s: cut given up: %s", qmp.machine, reason)
                        self._fleece.give_up()
                        resume_if_stopped(qmp)
        except MachineUnreachable as error:
            log.warning("the watch over a cut ended: %s", error)

    def _too_much(self) -> str:
        """Which limit is passed, in words; "" while all is well."""
        limits, files = self._cutter.limits, self._cutter.files
        left = free(files.directory)
        if left < limits.reserve:
            return (
                f"{left >> 20} MiB are left on the scratch volume, {limits.reserve >> 20} MiB are kept free"
            )
        used = files.used(self._fleece.paths)
        if used > limits.budget:
            return f"{used >> 20} MiB of scratch space are used, {limits.budget >> 20} MiB are allowed"
        if self._cutter.clock.monotonic() - self._opened > limits.seconds:
            return f"it was open for longer than {limits.seconds:g} s"
        return ""


def resume_if_stopped(qmp: Monitor) -> None:
    """Let a guest go on that QEMU stopped because a write failed (werror=enospc): there is room again.

    If the failure was its own disk's, it stops again at the same write.
    """
    if qmp.has("query-status") and qmp.command("query-status")["status"] == "io-error":
        log.warning("%s: resumed after an I/O error while a cut was open", qmp.machine)
        qmp.command("cont")
