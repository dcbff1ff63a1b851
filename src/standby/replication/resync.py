"""Why a disk must be compared with its replica, and when that may begin. Pure.

Each disk on its own, reading the source only; recovery points stay. The words end the sentence "Disk sda must
be compared with its replica: ...".
"""

from __future__ import annotations

from datetime import datetime, tzinfo
from enum import StrEnum
from typing import Final, NamedTuple

from standby.hypervisor.base import Lost
from standby.replication.window import ResyncWindow


class Reason(StrEnum):
    """What the books keep. NEVER and ADDED are initial replication: a scan like any other."""

    NEVER = "initial"
    ADDED = "added"
    BACKLOG = "backlog"
    TRACKING_LOST = "tracking-lost"
    HOST_CRASH = "host-crash"
    RESIZED = "resized"
    REVERTED = "reverted"
    DETACHED = "detached"
    LOG_LOST = "log-lost"
    DIVERGED = "diverged"
    ASKED = "asked"


class Begins(StrEnum):
    """When the comparison may begin."""

    AT_ONCE = "at once"
    IN_WINDOW = "in the resynchronization window"


class Explained(NamedTuple):
    """why: a clause. operator: what a person can do, now or against the next time; "" where there is no need."""

    why: str
    begins: Begins
    operator: str


_START_NOW: Final = "an operator may start it before its window opens"

EXPLAINED: Final[dict[Reason, Explained]] = {
    Reason.NEVER: Explained("it has not been replicated yet", Begins.AT_ONCE, ""),
    Reason.ADDED: Explained("it was added to the protected machine", Begins.AT_ONCE, ""),
    Reason.BACKLOG: Explained(
        "its queued logs took the room that the machine's own disks need, and were dropped",
        Begins.IN_WINDOW,
        f"see why the store was away or slow, and who fills this volume, or set a spool elsewhere; {_START_NOW}",
    ),
    Reason.TRACKING_LOST: Explained(
        "change tracking is gone (the machine was restarted, or its process ended)",
        Begins.IN_WINDOW,
        f"{_START_NOW}; tracking of a qcow2 disk survives a restart, that of a raw one does not",
    ),
    Reason.HOST_CRASH: Explained(
        "change tracking was not closed gracefully (the host crashed, or the machine's process was killed)",
        Begins.IN_WINDOW,
        _START_NOW,
    ),
    Reason.RESIZED: Explained(
        "it has another size",
        Begins.IN_WINDOW,
        f"{_START_NOW}; older points keep the size that the disk had then",
    ),
    Reason.REVERTED: Explained(
        "it was reverted to an older state",
        Begins.IN_WINDOW,
        f"points from before the reversion stay, to go back to; {_START_NOW}",
    ),
    Reason.DETACHED: Explained(
        "it is no longer attached to the machine, and changes meanwhile would not be seen",
        Begins.IN_WINDOW,
        "attach it again, or leave it out of the replication",
    ),
    Reason.LOG_LOST: Explained(
        "a log of its changes was lost or damaged before it was sent",
        Begins.IN_WINDOW,
        f"check the volume that the logs lie on; {_START_NOW}",
    ),
    Reason.DIVERGED: Explained(
        "the replica is not what this agent left there (another writer, or older books)",
        Begins.AT_ONCE,
        "",
    ),
    Reason.ASKED: Explained("an operator asked for it", Begins.AT_ONCE, ""),
}

_OF_LOST: Final = {
    Lost.NEVER_TRACKED: Reason.TRACKING_LOST,
    Lost.TRACKING_LOST: Reason.TRACKING_LOST,
    Lost.INCONSISTENT: Reason.HOST_CRASH,
    Lost.RESIZED: Reason.RESIZED,
    Lost.DETACHED: Reason.DETACHED,
    Lost.REVERTED: Reason.REVERTED,
}


def of_lost(lost: Lost) -> Reason:
    """The reason for what a hypervisor's change tracking tells."""
    return _OF_LOST[lost]


def opens(reason: Reason, window: ResyncWindow, at: datetime, tz: tzinfo) -> datetime | None:
    """When the disk's comparison may begin: `at` for now, None for when an operator starts it."""
    begins = EXPLAINED[reason].begins
    return at if begins is Begins.AT_ONCE else window.next_opening(at, tz)
