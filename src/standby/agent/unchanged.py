"""What was decided when a machine was protected, and stays."""

from __future__ import annotations

import msgspec

from standby.errors import Fenced, InvalidRequest
from standby.link.requests import Protect
from standby.replication.books import Books
from standby.replication.followers import Followers
from standby.replication.relationship import Relationship
from standby.replication.states import State


def as_known(books: Books, known: Relationship, request: Protect) -> Protect:
    """The request, with the store that comes first now in place of one that did before (decision 0012)."""
    followers = Followers(books).of(known.id)
    if (request.store, request.replica) not in [(one.store, one.replica) for one in followers]:
        return request
    return msgspec.structs.replace(request, store=known.store, replica=known.replica)


def check_unchanged(known: Relationship, request: Protect) -> None:
    """Raises InvalidRequest, or Fenced, for a request that says otherwise, and for a machine that does not wait to
    be taken on again."""
    for what, was, wanted in (
        ("store", known.store, request.store),
        ("replica name", known.replica, request.replica),
        ("spool", known.spool, request.spool or known.spool),
    ):
        if was != wanted:
            raise InvalidRequest(
                f"it is protected already, with the {what} {was or 'beside each disk'} and not {wanted}",
                subject=known.machine,
                hint=f"leave that as it is, or `standby vm unprotect {known.machine}` first",
            )
    if request.key_file and not known.wrapped:
        raise InvalidRequest(
            "it is protected already, and its replica is not encrypted",
            subject=known.machine,
            hint=f"leave the key away; or `standby vm unprotect {known.machine}`, then protect it anew with the key "
            "and another --replica name",
        )
    if left := sorted({disk.id for disk in known.disks} & set(request.excluded)):
        raise InvalidRequest(
            f"the disk {left[0]} is protected already",
            subject=known.machine,
            hint=f"`standby vm disks {known.machine} --exclude {left[0]}` leaves it out",
        )
    if known.status.state is State.PAUSED:
        raise InvalidRequest(
            "it is paused", subject=known.machine, hint=f"`standby vm resume {known.machine}`, then again"
        )
    if known.status.state is State.SEALED and not request.take_over:
        raise InvalidRequest(
            "it is sealed: the machine was shut down for good, and may run elsewhere",
            subject=known.machine,
            hint="if it was failed back and runs here and nowhere else, the same command with --take-over; "
            f"or `standby vm unprotect {known.machine}`: its replica stays",
        )
    if known.status.state is State.FENCED and not request.take_over:
        raise Fenced(
            known.error or "another agent owns the replica",
            subject=known.machine,
            hint="make sure that the machine runs here and nowhere else, then the same command with --take-over",
        )
