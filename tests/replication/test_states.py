"""Every state with every event: what it leads to, and that all else is refused in our own words."""

from __future__ import annotations

import itertools

import pytest

from standby.errors import InvalidRequest
from standby.replication.states import Event, State, Status, after

LIVE = (
    "new",
    "initial replication",
    "finalizing",
    "protected",
    "delta",
    "resync required",
    "resynchronizing",
)
EXPECTED = {
    ("new", Event.STARTED): "initial replication",
    ("initial replication", Event.SCANNED): "finalizing",
    ("initial replication", Event.TRACKING_LOST): "initial replication",
    ("finalizing", Event.TRACKING_LOST): "initial replication",
    ("finalizing", Event.CLOSED): "protected",
    ("protected", Event.CYCLE_BEGAN): "delta",
    ("protected", Event.TRACKING_LOST): "resync required",
    ("protected", Event.SEALED): "sealed",
    ("delta", Event.CYCLE_ENDED): "protected",
    ("delta", Event.TRACKING_LOST): "resync required",
    ("resync required", Event.TRACKING_LOST): "resync required",
    ("resync required", Event.RESYNC_STARTED): "resynchronizing",
    ("resynchronizing", Event.TRACKING_LOST): "resync required",
    ("resynchronizing", Event.CLOSED): "protected",
    ("resynchronizing", Event.RESYNC_HELD): "resync required",
    ("fenced", Event.STARTED): "resync required",
    ("sealed", Event.STARTED): "resync required",
    ("fenced", Event.TRACKING_LOST): "fenced",
    ("paused", Event.FENCED): "fenced",
    **{(state, Event.FENCED): "fenced" for state in LIVE},
    **{(state, Event.PAUSED): "paused" for state in LIVE},
}
UNPAUSED = [state for state in State if state is not State.PAUSED]


@pytest.mark.parametrize(("state", "event"), list(itertools.product(UNPAUSED, Event)))
def test_every_state_with_every_event(state, event):
    expected = EXPECTED.get((state.value, event))
    if expected is None:
        with pytest.raises(
            InvalidRequest, match=f"vm: {event.value} is not possible in the state {state.value}"
        ):
            after(Status(state), event, "vm")
    else:
        assert after(Status(state), event, "vm").state.value == expected


@pytest.mark.parametrize("state", [State(one) for one in LIVE])
def test_a_pause_gives_back_what_it_interrupted(state):
    paused = after(Status(state), Event.PAUSED, "vm")
    resumed = State.PROTECTED if state is State.DELTA else state
    assert paused == Status(State.PAUSED, resumed)
    assert after(paused, Event.RESUMED, "vm") == Status(resumed)


@pytest.mark.parametrize(
    ("before", "resumed"),
    [
        (State.INITIAL_REPLICATION, State.INITIAL_REPLICATION),
        (State.FINALIZING, State.INITIAL_REPLICATION),
        (State.PROTECTED, State.RESYNC_REQUIRED),
        (State.RESYNC_REQUIRED, State.RESYNC_REQUIRED),
        (State.RESYNCHRONIZING, State.RESYNC_REQUIRED),
    ],
)
def test_tracking_lost_in_a_pause_is_known_after_it(before, resumed):
    lost = after(Status(State.PAUSED, before), Event.TRACKING_LOST, "vm")
    assert lost == Status(State.PAUSED, resumed)
    assert after(lost, Event.RESUMED, "vm") == Status(resumed)


@pytest.mark.parametrize("before", [State.FINALIZING, State.RESYNCHRONIZING])
def test_an_upload_that_ends_in_a_pause_closes_what_it_closes(before):
    closed = after(Status(State.PAUSED, before), Event.CLOSED, "vm")
    assert closed == Status(State.PAUSED, State.PROTECTED)


@pytest.mark.parametrize("event", [event for event in Event if event not in (Event.RESUMED, Event.FENCED)])
def test_nothing_else_reaches_what_is_paused(event):
    before = State.NEW if event is Event.TRACKING_LOST else State.PROTECTED
    with pytest.raises(InvalidRequest, match="in the state paused"):
        after(Status(State.PAUSED, before), event, "vm")
