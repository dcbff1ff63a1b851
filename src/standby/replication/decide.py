"""What a relationship does next. Pure: a view in, an action out."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from standby.replication.states import State


class SourceAction(StrEnum):
    WAIT = "wait"
    RECOVER = "bring change tracking in order"
    SCAN = "scan a disk"
    CYCLE = "make a point"
    MISS = "let a cycle go by"
    MAKE_ROOM = "drop queued logs of a full volume"
    RESYNCHRONIZE = "begin to compare disks with the replica"
    HOLD = "wait for the next window to compare disks"


class TargetAction(StrEnum):
    WAIT = "wait"
    ATTACH = "take the replica over"
    REFILL = "learn what the replica has"
    SHIP = "commit the oldest entry"
    YIELD = "let another target come first"


class View(NamedTuple):
    """What there is to decide from.

    tracked: change tracking is in order. attached: this agent owns the replica. unknown: a disk's known hashes
    are unusable. unlearned: they lack what the oldest entry holds, or the queue must be looked through.
    scanning: a disk's scan is not done. resync_open: disks may be compared now. full: no further log may be
    written. crowded: queued logs must give way: a volume has too little room left, or one target keeps what no other
    waits for. yields: the first target is that one. closing: the point that closes
    the last scan waits. queued, queued_scans: entries that wait, and those of them that are a scan's.
    capture_due, ship_due: no error stands in the way. cycle_due: nor is it too early for the next point.
    """

    state: State
    tracked: bool
    attached: bool
    unknown: bool
    unlearned: bool
    scanning: bool
    resync_open: bool
    full: bool
    crowded: bool
    closing: bool
    queued: int
    queued_scans: int
    capture_due: bool
    cycle_due: bool
    ship_due: bool
    yields: bool = False


_IDLE = (State.NEW, State.PAUSED, State.FENCED, State.SEALED)
_CLOSING = (State.FINALIZING, State.RESYNCHRONIZING)
_SCANNING = (State.INITIAL_REPLICATION, State.RESYNC_REQUIRED, State.RESYNCHRONIZING)


def source_action(view: View) -> SourceAction:
    if view.state in (State.NEW, State.FENCED, State.SEALED):
        return SourceAction.WAIT
    if view.crowded:
        # Also while paused: logs lie beside the guest's own disks, and must not take the room from them.
        return SourceAction.MAKE_ROOM
    if view.state is State.PAUSED or view.unknown:
        return SourceAction.WAIT
    if not view.tracked or not _agreed(view):
        return SourceAction.RECOVER if view.capture_due else SourceAction.WAIT
    if view.state is State.RESYNC_REQUIRED:
        # Where nothing is left to compare, the point that closes the resynchronization costs no reading.
        return SourceAction.RESYNCHRONIZE if view.resync_open or not view.scanning else SourceAction.WAIT
    if view.scanning:
        if view.state is State.RESYNCHRONIZING and not view.resync_open:
            return SourceAction.HOLD
        # One scan's log waits at most: the store sets the pace, not the size of the spool.
        held = view.queued_scans or view.full or not view.capture_due
        return SourceAction.WAIT if held else SourceAction.SCAN
    if view.full:
        # Changes go on being tracked; the next point takes them along.
        return SourceAction.MISS if view.cycle_due else SourceAction.WAIT
    if view.state in _CLOSING:
        # The point that closes a scan is made at once; while it waits for the store, others follow it.
        return SourceAction.CYCLE if view.cycle_due or not view.closing else SourceAction.WAIT
    return SourceAction.CYCLE if view.cycle_due else SourceAction.WAIT


def _agreed(view: View) -> bool:
    """Whether the books agree with themselves and with the state. A kill or a pause may come in between."""
    if view.unlearned:
        return False
    if view.scanning:
        return view.state in _SCANNING
    return view.state is not State.INITIAL_REPLICATION


def target_action(view: View) -> TargetAction:
    if view.state in _IDLE:
        return TargetAction.WAIT
    if view.yields:
        return TargetAction.YIELD
    if not view.ship_due:
        return TargetAction.WAIT
    if not view.attached:
        return TargetAction.ATTACH
    if view.unknown:
        return TargetAction.REFILL
    # A shipped entry's logs are gone: what they hold must be known before.
    return TargetAction.SHIP if view.queued and not view.unlearned else TargetAction.WAIT
