"""Rounds as dirty bitmaps: `standby-<relationship>-<number>` on the disk's format node, 4 KiB a bit.

Where others copy bitmaps from image to image (`Monitor.copies_bitmaps`), the name ends in a mark of the image
too, and one with another image's mark tells nothing: libvirt's snapshots give the new image a bitmap of each
name that begins empty, and what was written before would be missed in silence (tried: docs/decisions/0016).

QEMU marks a block when a write to it completes, so a write in flight while a round begins is in the newer
one. Of a disk's rounds exactly the newest records. Counts are never looked at: after a crash they are 0 for
bitmaps that mean nothing (`inconsistent`, good only for removal).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from standby.errors import Bug
from standby.failpoints import declare
from standby.hypervisor.base import DiskInUse, Lost, TrackingLost
from standby.hypervisor.inventory import OURS, Bitmap, SourceDisk
from standby.hypervisor.monitor import Monitor, QmpError

GRANULARITY = 4096
"""Bytes of one bit: the page of the replica's logs."""

Action = tuple[str, Mapping[str, Any]]

_begun = declare("rounds.begun")
_dropped = declare("rounds.dropped")
_folded = declare("rounds.folded")
_forgetting = declare("rounds.forgetting")
_forgotten = declare("rounds.forgotten")


class Found(NamedTuple):
    """One of our rounds on a disk."""

    number: int
    bitmap: Bitmap


class Rounds:
    def __init__(self, qmp: Monitor, relationship: str) -> None:
        self._qmp = qmp
        self._prefix = f"{OURS}{relationship}-"
        self._marked = qmp.copies_bitmaps

    def name(self, disk: SourceDisk, number: int) -> str:
        return f"{self._prefix}{number}{self._mark(disk)}"

    def of(self, disk: SourceDisk) -> list[Found]:
        """The disk's rounds of this relationship, oldest first."""
        mark = self._mark(disk)
        found = [
            Found(int(number), bitmap)
            for bitmap in disk.bitmaps
            if bitmap.name.startswith(self._prefix) and bitmap.name.endswith(mark)
            if (number := bitmap.name.removeprefix(self._prefix).removesuffix(mark)).isdecimal()
        ]
        return sorted(found)

    def current(self, disk: SourceDisk) -> int:
        """The number of the round that records. Raises TrackingLost if none does as it should."""
        return self._recording(disk).number

    def pending(self, disk: SourceDisk) -> int:
        """Bytes that are dirty in the round that records. Raises TrackingLost."""
        return self._recording(disk).bitmap.dirty

    def recover(self, disk: SourceDisk, active: int, since: int) -> Lost | None:
        """Make the disk's rounds one that records and reaches back to `active`; else why not, and none."""
        self._drop_copies(disk)
        found = self.of(disk)
        lost, base = judge(found, active, since)
        if base is None:
            self._drop(disk, found)
            _dropped.reach()
            return lost
        later = [round for round in found if round.number > base]
        self._qmp.transaction(self.fold(disk, base, [round.number for round in later]))
        _folded.reach()
        self._drop(disk, [round for round in found if round.number < base])
        return None

    def fold(self, disk: SourceDisk, base: int, later: Sequence[int]) -> list[Action]:
        """Actions after which round `base` records and holds the later rounds, which are gone."""
        if not later:
            return []
        names = [self.name(disk, number) for number in later]
        return [
            ("block-dirty-bitmap-enable", {"node": disk.node, "name": self.name(disk, base)}),
            (
                "block-dirty-bitmap-merge",
                {"node": disk.node, "target": self.name(disk, base), "bitmaps": names},
            ),
            *(("block-dirty-bitmap-remove", {"node": disk.node, "name": name}) for name in names),
        ]

    def begin(self, disks: Iterable[SourceDisk], number: int) -> None:
        """Begin the first round on disks that have none of their own."""
        actions: list[Action] = []
        for disk in disks:
            self._drop(disk, self.of(disk))
            actions.append(self.add(disk, number))
        self.run(actions)
        _begun.reach()

    def add(self, disk: SourceDisk, number: int) -> Action:
        """The action that begins to record round `number`."""
        bitmap = {"node": disk.node, "name": self.name(disk, number), "granularity": GRANULARITY}
        return "block-dirty-bitmap-add", bitmap | ({"persistent": True} if disk.persistent else {})

    def end(self, disk: SourceDisk, number: int) -> Action:
        """The action that ends the recording of round `number`."""
        return "block-dirty-bitmap-disable", {"node": disk.node, "name": self.name(disk, number)}

    def forget(self, disk: SourceDisk, below: int) -> None:
        """Remove the ended rounds numbered below `below`."""
        found = self.of(disk)[:-1]
        for round in found:
            if round.number < below:
                _forgetting.reach()
                self._drop(disk, [round])
                _forgotten.reach()

    def drop_all(self, disk: SourceDisk) -> None:
        """Remove every round of this relationship from the disk."""
        self._drop_copies(disk)
        self._drop(disk, self.of(disk))

    def _mark(self, disk: SourceDisk) -> str:
        """What tells the disk's image from the one that it was copied from."""
        return f"-{hashlib.sha256(disk.path.encode()).hexdigest()[:8]}" if self._marked else ""

    def _drop_copies(self, disk: SourceDisk) -> None:
        """Remove what others copied from a round of another image."""
        if self._marked:
            own = {round.bitmap for round in self.of(disk)}
            copies = [one for one in disk.bitmaps if one.name.startswith(self._prefix) and one not in own]
            self._drop(disk, [Found(0, one) for one in copies])

    def run(self, actions: Sequence[Action]) -> None:
        """A transaction, with refusals told as what they mean."""
        try:
            self._qmp.transaction(actions)
        except QmpError as error:
            if "busy" in error.desc or "in use" in error.desc:
                raise DiskInUse(
                    f"another job of its QEMU process holds a disk: {error.desc}",
                    subject=self._qmp.machine,
                    tried="beginning a round; nothing was changed",
                    hint="wait until the other backup, mirror or snapshot has ended (query-jobs lists it)",
                ) from error
            raise

    def _recording(self, disk: SourceDisk) -> Found:
        found = self.of(disk)
        if (lost := _state(found)) is not None:
            raise TrackingLost(disk.id, lost, machine=self._qmp.machine)
        return found[-1]

    def _drop(self, disk: SourceDisk, found: Iterable[Found]) -> None:
        for round in found:
            if round.bitmap.busy:
                raise Bug(
                    f"round {round.number} is still shown or in use",
                    subject=f"{self._qmp.machine}, disk {disk.id}",
                    tried="forgetting it",
                    hint="close the disks that show it and release the cut first",
                )
            self._qmp.command("block-dirty-bitmap-remove", node=disk.node, name=round.bitmap.name)


def judge(found: Sequence[Found], active: int, since: int = 0) -> tuple[Lost | None, int | None]:
    """Whether rounds (oldest first) tell every write since round `active` began; from which one on.

    The disk's round at the instant `active` began is the newest one not above it: `begin` on other disks
    does not begin one here. If there is none, recording began later than that instant. Where that round's
    number is known (`since`), an older one is that of an older image: rounds of qcow2 travel with the file.
    """
    if not found:
        return (Lost.TRACKING_LOST if active else Lost.NEVER_TRACKED), None
    bases = [round.number for round in found if round.number <= active]
    if not bases:
        inconsistent = any(round.bitmap.inconsistent for round in found)
        return (Lost.INCONSISTENT if inconsistent else Lost.TRACKING_LOST), None
    base = bases[-1]
    if base < since:
        return Lost.REVERTED, None
    lost = _state([round for round in found if round.number >= base])
    return lost, (base if lost is None else None)


def _state(found: Sequence[Found]) -> Lost | None:
    if any(round.bitmap.inconsistent for round in found):
        return Lost.INCONSISTENT
    if not found or not found[-1].bitmap.recording:
        return Lost.TRACKING_LOST
    return None
