"""The step of a failover that changes its guest: between its overlays and its start, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from standby import failpoints
from standby.errors import NeedsPerson
from standby.hypervisor.host import RecoveryHost
from standby.objects.durable import sync
from standby.records import MachineDescription
from standby.recovery import files, fixup, prerequisites, run_directory
from standby.recovery.fixup_plan import Edit
from standby.recovery.fixup_wish import FixUp, FixUpRefused
from standby.recovery.steps import Facts
from standby.replica.journal import ReplicaLog

_MARK: Final = "fixed.json"
_CHANGED = failpoints.declare("fixup.changed")
_REPLACED = failpoints.declare("fixup.replaced")


class GuestStarted(NeedsPerson):
    """The guest ran already, so its overlays must not be made anew."""


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """An overlay, the NBD URI below it, and the disk's size in bytes."""

    path: Path
    backing: str
    size: int

    @property
    def fresh(self) -> Path:
        return self.path.with_suffix(".qcow2.fix")


def check(wish: FixUp, machine: MachineDescription, keeps_macs: bool = True) -> None:
    """Raises FixUpRefused for a card that the machine has not, or will not have by that address."""
    known = {nic.mac.lower() for nic in machine.nics}
    for card in wish.cards:
        if card.by_mac and card.name not in known:
            raise FixUpRefused(
                "the machine has no such card",
                subject=f"--set-address {card.name}",
                tried="nothing was changed",
                hint=f"it has {', '.join(sorted(known)) or 'none'}; or name the interface, as ens3",
            )
        if card.by_mac and not keeps_macs:
            raise FixUpRefused(
                "the card gets another address by --mac new",
                subject=f"--set-address {card.name}",
                tried="nothing was changed",
                hint="name the interface, as ens3; or keep the addresses",
            )


def preview(log: ReplicaLog, point: str, wish: FixUp) -> list[Edit]:
    """What a failover to the point would change in its guest; nothing is started, written or fenced.

    Raises FixUpRefused, and what `files.served` raises.
    """
    record = log.point(point)
    machine = prerequisites.machine_at(record, log.place.name)
    check(wish, machine)
    described = {disk.id for disk in machine.disks}
    with files.served(log, record, [disk.id for disk in record.disks if disk.id in described]) as served:
        return fixup.look([socket for _, socket in served.sockets], wish, len(machine.nics))


class Fixed(msgspec.Struct, frozen=True):
    files: tuple[str, ...]


def change(
    run: Path,
    wish: FixUp,
    cards: int,
    host: RecoveryHost,
    overlays: Sequence[Overlay],
    started: Callable[[], bool],
) -> Facts:
    """Change the guest on overlays of its own, which then take the place of those that nothing was written to.

    So a process killed anywhere leaves a guest that is changed wholly, or is changed again from the point.
    """
    if started():
        raise GuestStarted(
            "its guest was started, and is to be changed only now",
            subject=str(run),
            tried="nothing was changed",
            hint="`standby failover cancel` and fail over anew",
        )
    for one in overlays:
        host.overlay(one.fresh, one.backing, one.size)
    edits = fixup.change([one.fresh for one in overlays], wish, cards)
    _CHANGED.reach()
    for one in overlays:
        one.fresh.rename(one.path)
        _REPLACED.reach()
    sync(run)
    run_directory.put(run / _MARK, Fixed(tuple(edit.path for edit in edits)))
    return {"files": len(edits)}


def changed(run: Path) -> Facts | None:
    """What `Step.done` answers."""
    fixed = run_directory.find(run / _MARK, Fixed)
    return None if fixed is None else {"files": len(fixed.files)}


def forget(run: Path) -> None:
    """Before the overlays are taken away, or made anew."""
    (run / _MARK).unlink(missing_ok=True)
    for fresh in run.glob("*.qcow2.fix"):
        fresh.unlink(missing_ok=True)
