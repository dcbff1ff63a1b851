"""The states of replication and what leads from one to another (design: section 5). A pure table.

Errors are kept beside the state and health is computed from both; neither is a state.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from standby.errors import InvalidRequest


class State(StrEnum):
    NEW = "new"
    INITIAL_REPLICATION = "initial replication"
    FINALIZING = "finalizing"
    PROTECTED = "protected"
    DELTA = "delta"
    RESYNC_REQUIRED = "resync required"
    RESYNCHRONIZING = "resynchronizing"
    PAUSED = "paused"
    FENCED = "fenced"
    SEALED = "sealed"


class Event(StrEnum):
    STARTED = "replication started"
    SCANNED = "all disks scanned"
    CYCLE_BEGAN = "a cycle began"
    CYCLE_ENDED = "a cycle ended"
    CLOSED = "the point that closes a scan is committed"
    TRACKING_LOST = "changes can no longer be told apart"
    RESYNC_STARTED = "resynchronization started"
    RESYNC_HELD = "resynchronization waits for its next window"
    PAUSED = "paused by an operator"
    RESUMED = "resumed by an operator"
    FENCED = "another writer took the replica"
    SEALED = "the machine was shut down for good"


class Status(NamedTuple):
    """A state and, while paused, the state that was paused."""

    state: State
    before_pause: State | None = None


_LIVE: Final = (
    State.NEW,
    State.INITIAL_REPLICATION,
    State.FINALIZING,
    State.PROTECTED,
    State.DELTA,
    State.RESYNC_REQUIRED,
    State.RESYNCHRONIZING,
)

TABLE: Final[dict[tuple[State, Event], State]] = {
    (State.NEW, Event.STARTED): State.INITIAL_REPLICATION,
    (State.INITIAL_REPLICATION, Event.SCANNED): State.FINALIZING,
    # A machine that restarts during initial replication is scanned again from the start of its disks.
    (State.INITIAL_REPLICATION, Event.TRACKING_LOST): State.INITIAL_REPLICATION,
    (State.FINALIZING, Event.TRACKING_LOST): State.INITIAL_REPLICATION,
    (State.FINALIZING, Event.CLOSED): State.PROTECTED,
    (State.PROTECTED, Event.CYCLE_BEGAN): State.DELTA,
    (State.DELTA, Event.CYCLE_ENDED): State.PROTECTED,
    (State.PROTECTED, Event.TRACKING_LOST): State.RESYNC_REQUIRED,
    (State.DELTA, Event.TRACKING_LOST): State.RESYNC_REQUIRED,
    (State.RESYNC_REQUIRED, Event.TRACKING_LOST): State.RESYNC_REQUIRED,
    (State.RESYNC_REQUIRED, Event.RESYNC_STARTED): State.RESYNCHRONIZING,
    # How far each disk was compared is kept: it goes on from there.
    (State.RESYNCHRONIZING, Event.RESYNC_HELD): State.RESYNC_REQUIRED,
    (State.RESYNCHRONIZING, Event.TRACKING_LOST): State.RESYNC_REQUIRED,
    (State.RESYNCHRONIZING, Event.CLOSED): State.PROTECTED,
    (State.PROTECTED, Event.SEALED): State.SEALED,
    # Taken back by an operator: what the other writer left there decides how much must be compared.
    (State.FENCED, Event.STARTED): State.RESYNC_REQUIRED,
    # A machine that was failed back: it is this side's again.
    (State.SEALED, Event.STARTED): State.RESYNC_REQUIRED,
    (State.FENCED, Event.TRACKING_LOST): State.FENCED,
    **{(state, Event.PAUSED): State.PAUSED for state in _LIVE},
    **{(state, Event.FENCED): State.FENCED for state in (*_LIVE, State.PAUSED)},
}

_REACH_PAUSED: Final = (Event.TRACKING_LOST, Event.CLOSED)
"""What may still come of a step that was under way."""


def after(status: Status, event: Event, subject: str) -> Status:
    """The status that `event` leads to. Raises InvalidRequest where it leads nowhere."""
    if status.state is State.PAUSED and event is Event.RESUMED and status.before_pause:
        return Status(status.before_pause)
    if status.state is State.PAUSED and event in _REACH_PAUSED and status.before_pause:
        # What was paused learns of it; the pause stays.
        before = TABLE.get((status.before_pause, event))
        found = State.PAUSED if before else None
    else:
        before = State.PROTECTED if status.state is State.DELTA else status.state
        found = TABLE.get((status.state, event))
    if found is None:
        raise InvalidRequest(
            f"{event.value} is not possible in the state {status.state.value}", subject=subject
        )
    # A cycle that is paused half way is not taken up again: the next one does its work.
    return Status(found, before if found is State.PAUSED else None)
