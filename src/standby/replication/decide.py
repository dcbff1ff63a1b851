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


class TargetAction(StrEnum):
    WAIT = "wait"
    ATTACH = "take the replica over"
    REFILL = "learn what the replica has"
    SHIP = "commit the oldest entry"


class View(NamedTuple):
    """What there is to decide from.

    tracked: change tracking is in order. attached: this agent owns the replica. unknown: a disk's known hashes
    are unusable. unlearned: they lack what the oldest entry holds. scanning: a disk's scan is not done.
    queued, queued_scans: entries that wait, and those of them that are a scan's. cycle_due, ship_due: the time
    has come (frequency; no retry is pending).
    """

    state: State
    tracked: bool
    attached: bool
    unknown: bool
    unlearned: bool
    scanning: bool
    queued: int
    queued_scans: int
    cycle_due: bool
    ship_due: bool


_IDLE = (State.NEW, State.PAUSED, State.FENCED, State.SEALED)
_CLOSING = (State.FINALIZING, State.RESYNCHRONIZING)
_SCANNING = (State.INITIAL_REPLICATION, State.RESYNCHRONIZING)


def source_action(view: View) -> SourceAction:
    if view.state in _IDLE or view.unknown:
        return SourceAction.WAIT
    if not view.tracked:
        return SourceAction.RECOVER if view.cycle_due else SourceAction.WAIT
    if view.scanning and view.state not in (*_SCANNING, State.RESYNC_REQUIRED):
        # A kill came between the loss and its state: recovering tells it.
        return SourceAction.RECOVER
    if view.state in _SCANNING and view.scanning:
        # One scan's log waits at most: the store sets the pace, not the size of the spool.
        return SourceAction.WAIT if view.queued_scans else SourceAction.SCAN
    if view.state in _CLOSING:
        # The point that closes a scan is made at once, and only once.
        return SourceAction.WAIT if view.queued > view.queued_scans else SourceAction.CYCLE
    if view.state in (State.PROTECTED, State.DELTA):
        return SourceAction.CYCLE if view.cycle_due else SourceAction.WAIT
    return SourceAction.WAIT


def target_action(view: View) -> TargetAction:
    if view.state in _IDLE or not view.ship_due:
        return TargetAction.WAIT
    if not view.attached:
        return TargetAction.ATTACH
    if view.unknown:
        return TargetAction.REFILL
    # A shipped entry's logs are gone: what they hold must be known before.
    return TargetAction.SHIP if view.queued and not view.unlearned else TargetAction.WAIT
