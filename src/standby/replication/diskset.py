"""Disks that come, go and grow while their machine is protected: no protection anew, and older points stay."""

from __future__ import annotations

from collections.abc import Collection

from standby.errors import NeedsPerson, ResyncRequired
from standby.records import MachineDescription
from standby.replication.books import Books
from standby.replication.relationship import UNKNOWN, DiskBook, Relationship
from standby.replication.resync import EXPLAINED, Reason


class DiskAdded(ResyncRequired):
    """The machine has a disk that is neither protected nor left out."""


class DisksGone(NeedsPerson):
    """The machine has none of its protected disks any more."""


def let_detached_go(books: Books, relationship: Relationship, detached: Collection[str]) -> None:
    """Points from here on are without them; older ones keep them."""
    if detached and len(detached) == len(relationship.disks):
        raise DisksGone(
            f"none of its protected disks is attached ({', '.join(sorted(detached))})",
            subject=relationship.machine,
            tried="nothing was forgotten",
            hint=f"attach them again, then `standby vm retry {relationship.machine}`",
        )
    if detached:
        books.remove_disks(relationship.id, detached)


def take_in_added(books: Books, relationship: Relationship, machine: MachineDescription) -> list[str]:
    known = {*relationship.excluded, *(disk.id for disk in relationship.disks)}
    added = [disk for disk in machine.disks if disk.id not in known]
    for disk in added:
        books.add_disk(
            relationship.id,
            DiskBook(id=disk.id, size=disk.size, scan=Reason.ADDED.value, scanned=0, learned=UNKNOWN),
        )
    return [disk.id for disk in added]


def refuse_added(relationship: Relationship, machine: MachineDescription) -> None:
    known = {*relationship.excluded, *(disk.id for disk in relationship.disks)}
    if added := sorted(disk.id for disk in machine.disks if disk.id not in known):
        raise DiskAdded(
            EXPLAINED[Reason.ADDED].why,
            subject=f"{relationship.machine}, {', '.join(added)}",
            tried="it is protected from now on; older points are without it",
            hint=f"nothing to do; or leave it out: `standby vm disks {relationship.machine} --exclude {added[0]}`",
        )
