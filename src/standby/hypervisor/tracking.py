"""Change tracking of one QEMU machine for one relationship."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from standby.block.disk import Disk
from standby.clock import Clock
from standby.errors import Bug, InvalidRequest
from standby.failpoints import declare
from standby.hypervisor.base import (
    Consistency,
    DiskUnsuitable,
    Lost,
    MachineUnreachable,
    Round,
    TrackingLost,
)
from standby.hypervisor.cut import Cutter, QemuCut
from standby.hypervisor.devices import iothread_of, shared_for_writing
from standby.hypervisor.exports import Exports, exported
from standby.hypervisor.fleece import remove_leftovers
from standby.hypervisor.freeze import FROZEN_LIMIT, Freeze, thaw_leftover
from standby.hypervisor.inventory import OURS, SourceDisk, disks_of
from standby.hypervisor.meeting import Meeting
from standby.hypervisor.monitor import Monitor
from standby.hypervisor.rounds import Rounds
from standby.hypervisor.scratch import CutLimits, ScratchFiles

_advanced = declare("precopy.advanced")
_recovering = declare("recover.cleaned")


class QemuTracking:
    """A `Tracking`. `recover` comes first; `done` is called once, by `close`."""

    def __init__(
        self,
        qmp: Monitor,
        relationship: str,
        scratch: Path,
        *,
        agent: Path | None,
        nbd: Path | None,
        limits: CutLimits,
        freeze_limit: float = FROZEN_LIMIT,
        clock: Clock,
        done: Callable[[], None],
    ) -> None:
        if not re.fullmatch(r"[a-z0-9]{1,16}", relationship):
            raise InvalidRequest(
                f"the relationship's mark {relationship!r} is not 1 to 16 of a-z and 0-9", subject=qmp.machine
            )
        self._qmp = qmp
        self._agent = agent
        self._freeze_limit = freeze_limit
        self._done = done
        self._prefix = f"{OURS}{relationship}-"
        self._mark = scratch / f"{self._prefix}frozen"
        self._rounds = Rounds(qmp, relationship)
        self._exports = Exports(qmp, relationship, nbd)
        self._files = ScratchFiles(scratch, self._prefix)
        self._cutter = Cutter(qmp, self._rounds, self._exports, self._files, limits, clock, self._prefix)
        self._sizes: dict[str, int] = {}
        self._closed = False

    def recover(
        self, active: int, sizes: Mapping[str, int], since: Mapping[str, int] = MappingProxyType({})
    ) -> Mapping[str, Lost | None]:
        self._thaw_leftover()
        remove_leftovers(self._qmp, self._exports, self._files, self._prefix)
        _recovering.reach()
        self._check_free()
        states: dict[str, Lost | None] = dict.fromkeys(sizes, Lost.DETACHED)
        for disk in disks_of(self._qmp):
            if disk.id in sizes and disk.size == sizes[disk.id] and not self._unsafe(disk):
                states[disk.id] = self._rounds.recover(disk, active, since.get(disk.id, 0))
                continue
            if disk.id in sizes:
                states[disk.id] = Lost.RESIZED if disk.size != sizes[disk.id] else Lost.TRACKING_LOST
            self._rounds.drop_all(disk)
        self._sizes = {identity: sizes[identity] for identity, lost in states.items() if lost is None}
        return states

    def begin(self, number: int, disks: Sequence[str]) -> None:
        present = {disk.id: disk for disk in disks_of(self._qmp)}
        chosen = []
        for identity in disks:
            if identity not in present:
                raise TrackingLost(identity, Lost.DETACHED, machine=self._qmp.machine)
            chosen.append(present[identity])
            if why := self._unsafe(present[identity]):
                raise DiskUnsuitable(
                    why,
                    subject=f"{self._qmp.machine}, disk {identity}",
                    tried="nothing: its changes are not tracked",
                    hint="`standby check` tells what to change; or leave this disk out",
                )
        self._rounds.begin(chosen, number)
        self._sizes |= {disk.id: disk.size for disk in chosen}

    def live(self) -> Mapping[str, Disk]:
        shown: dict[str, Disk] = {}
        with contextlib.ExitStack() as undo:
            for disk in self._tracked():
                shown[disk.id] = self._show(disk)
                undo.callback(shown[disk.id].close)
            undo.pop_all()
        return shown

    def pending(self) -> Mapping[str, int]:
        return {disk.id: self._rounds.pending(disk) for disk in self._tracked()}

    def advance(self, number: int) -> Mapping[str, Round]:
        disks = self._tracked()
        ended = {disk.id: self._rounds.current(disk) for disk in disks}
        self._check_number(number, ended)
        self._rounds.run(
            [
                *(self._rounds.add(disk, number) for disk in disks),
                *(self._rounds.end(disk, ended[disk.id]) for disk in disks),
            ]
        )
        _advanced.reach()
        found: dict[str, Round] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(
                lambda: self._qmp.transaction(
                    [action for disk in disks for action in self._rounds.fold(disk, ended[disk.id], [number])]
                )
            )
            for disk in disks:
                bitmap = self._rounds.name(disk, ended[disk.id])
                shown = self._exports.add("pre", disk.node, (disk.node, bitmap))
                undo.callback(self._exports.remove, [shown])
                client = self._exports.open(shown, bitmap)
                undo.callback(client.close)
                found[disk.id] = Round(exported(self._exports, shown, client), client.dirty())
            undo.pop_all()
        return found

    def cut(self, number: int, consistency: Consistency, meeting: Meeting | None = None) -> QemuCut:
        disks = self._tracked()
        self._check_number(number, {disk.id: self._rounds.current(disk) for disk in disks})
        freeze, note = None, ""
        if consistency is Consistency.APPLICATION:
            freeze = self._freeze()
            note = "" if freeze else "the machine has no guest agent socket"
        return self._cutter.open(disks, number, freeze, note, meeting)

    def forget(self, below: int) -> None:
        for disk in disks_of(self._qmp):
            if disk.id in self._sizes:
                self._rounds.forget(disk, below)

    def stop(self) -> None:
        self._thaw_leftover()
        remove_leftovers(self._qmp, self._exports, self._files, self._prefix)
        for disk in disks_of(self._qmp):
            self._rounds.drop_all(disk)
        self._sizes = {}
        self._exports.stop_serving()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # There is nothing to take away from a machine that is out of reach.
        with contextlib.suppress(MachineUnreachable):
            self._exports.stop_serving()
        self._done()

    def _check_free(self) -> None:
        """Raises DiskInUse while somebody else's job makes rounds mean less than they should."""

    def _freeze(self) -> Freeze | None:
        """To be held at the instant of a cut; None without a guest agent."""
        if self._agent is None:
            return None
        return Freeze(self._qmp.machine, self._agent, self._mark, limit=self._freeze_limit)

    def _thaw_leftover(self) -> None:
        """Thaw the guest if an agent that died left it frozen."""
        thaw_leftover(self._qmp.machine, self._agent, self._mark)

    def _show(self, disk: SourceDisk) -> Disk:
        shown = self._exports.add("live", disk.node)
        try:
            return exported(self._exports, shown, self._exports.open(shown))
        except BaseException:
            self._exports.remove([shown])
            raise

    def _tracked(self) -> list[SourceDisk]:
        """The disks whose rounds go on, as they are now. Raises TrackingLost for the first that is not."""
        if not self._sizes:
            raise Bug("no disk is tracked", subject=self._qmp.machine, hint="call recover and begin first")
        self._check_free()
        present = {disk.id: disk for disk in disks_of(self._qmp)}
        for identity, size in self._sizes.items():
            disk = present.get(identity)
            if disk is None or disk.size != size:
                lost = Lost.DETACHED if disk is None else Lost.RESIZED
                raise TrackingLost(identity, lost, machine=self._qmp.machine)
            # A device may have been plugged anew; an NBD client of a disk on an I/O thread kills QEMU 7.2.
            if why := self._unsafe(disk):
                raise DiskUnsuitable(why, subject=f"{self._qmp.machine}, disk {identity}")
        return [present[identity] for identity in sorted(self._sizes)]

    def _unsafe(self, disk: SourceDisk) -> str:
        """Why tracking the disk would endanger the guest or tell nothing; "" if it may be tracked."""
        if disk.read_only or disk.removable:
            return "the disk is read-only" if disk.read_only else "the medium is removable"
        if not disk.supported:
            return f"its format {disk.driver!r} is not one that is tracked"
        if thread := iothread_of(self._qmp, disk.device):
            return f"it is served by an I/O thread ({thread}), where QEMU may abort when a cut is read"
        if shared_for_writing(self._qmp, disk.device):
            return "it is shared with other writers (share-rw=on), whose writes would not be seen"
        return ""

    def _check_number(self, number: int, current: Mapping[str, int]) -> None:
        if number <= max(current.values()):
            raise Bug(
                f"round {number} is not above round {max(current.values())}, which records",
                subject=self._qmp.machine,
            )
