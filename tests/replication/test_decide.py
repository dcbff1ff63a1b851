"""What is done next, for every view there is."""

from __future__ import annotations

import itertools

import pytest

from standby.replication.decide import SourceAction, TargetAction, View, source_action, target_action
from standby.replication.states import State

VIEWS = [
    View(
        state,
        *flags,
        queued=queued,
        queued_scans=scans,
        capture_due=capture,
        cycle_due=capture and cycle,
        ship_due=ship,
    )
    for state in State
    for flags in itertools.product((False, True), repeat=9)
    for queued, scans in ((0, 0), (1, 0), (1, 1), (2, 1))
    if queued or not flags[3]
    for capture, cycle, ship in itertools.product((False, True), repeat=3)
]
IDLE = {State.NEW, State.PAUSED, State.FENCED, State.SEALED}
READY = View(
    State.PROTECTED,
    tracked=True,
    attached=True,
    unknown=False,
    unlearned=False,
    scanning=False,
    resync_open=True,
    full=False,
    crowded=False,
    closing=False,
    queued=0,
    queued_scans=0,
    capture_due=True,
    cycle_due=True,
    ship_due=True,
)


@pytest.mark.parametrize(
    ("source", "target", "change"),
    [
        (SourceAction.CYCLE, TargetAction.WAIT, {}),
        (SourceAction.WAIT, TargetAction.WAIT, {"cycle_due": False}),
        (SourceAction.CYCLE, TargetAction.SHIP, {"queued": 3}),
        (SourceAction.CYCLE, TargetAction.WAIT, {"queued": 3, "ship_due": False}),
        (SourceAction.CYCLE, TargetAction.ATTACH, {"attached": False, "queued": 3}),
        (SourceAction.RECOVER, TargetAction.WAIT, {"tracked": False}),
        (SourceAction.RECOVER, TargetAction.WAIT, {"tracked": False, "cycle_due": False}),
        (SourceAction.WAIT, TargetAction.WAIT, {"tracked": False, "cycle_due": False, "capture_due": False}),
        (SourceAction.WAIT, TargetAction.REFILL, {"unknown": True}),
        (SourceAction.CYCLE, TargetAction.WAIT, {"state": State.DELTA}),
        # The books call for a scan and the state does not say so yet, or the other way round.
        (SourceAction.RECOVER, TargetAction.WAIT, {"scanning": True}),
        (SourceAction.RECOVER, TargetAction.WAIT, {"state": State.FINALIZING, "scanning": True}),
        (SourceAction.RECOVER, TargetAction.WAIT, {"queued": 1, "unlearned": True}),
        (SourceAction.RECOVER, TargetAction.WAIT, {"queued": 1, "unlearned": True, "tracked": False}),
        (SourceAction.RECOVER, TargetAction.WAIT, {"state": State.INITIAL_REPLICATION}),
        (SourceAction.RESYNCHRONIZE, TargetAction.WAIT, {"state": State.RESYNC_REQUIRED}),
        (SourceAction.RESYNCHRONIZE, TargetAction.WAIT, {"state": State.RESYNC_REQUIRED, "scanning": True}),
        # Only what reads whole disks waits for the window.
        (
            SourceAction.WAIT,
            TargetAction.WAIT,
            {"state": State.RESYNC_REQUIRED, "scanning": True, "resync_open": False},
        ),
        (
            SourceAction.RESYNCHRONIZE,
            TargetAction.WAIT,
            {"state": State.RESYNC_REQUIRED, "resync_open": False},
        ),
        (
            SourceAction.HOLD,
            TargetAction.WAIT,
            {"state": State.RESYNCHRONIZING, "scanning": True, "resync_open": False},
        ),
        (SourceAction.CYCLE, TargetAction.WAIT, {"state": State.RESYNCHRONIZING, "resync_open": False}),
        (
            SourceAction.SCAN,
            TargetAction.WAIT,
            {"state": State.INITIAL_REPLICATION, "scanning": True, "resync_open": False},
        ),
        (SourceAction.MISS, TargetAction.SHIP, {"queued": 3, "full": True}),
        (SourceAction.WAIT, TargetAction.SHIP, {"queued": 3, "full": True, "cycle_due": False}),
        (
            SourceAction.WAIT,
            TargetAction.WAIT,
            {"state": State.INITIAL_REPLICATION, "scanning": True, "full": True},
        ),
        (SourceAction.MAKE_ROOM, TargetAction.SHIP, {"queued": 3, "full": True, "crowded": True}),
        (SourceAction.MAKE_ROOM, TargetAction.WAIT, {"state": State.PAUSED, "queued": 3, "crowded": True}),
        (SourceAction.SCAN, TargetAction.WAIT, {"state": State.INITIAL_REPLICATION, "scanning": True}),
        (SourceAction.SCAN, TargetAction.WAIT, {"state": State.RESYNCHRONIZING, "scanning": True}),
        (
            SourceAction.WAIT,
            TargetAction.SHIP,
            {"state": State.RESYNCHRONIZING, "scanning": True, "queued": 1, "queued_scans": 1},
        ),
        (
            SourceAction.CYCLE,
            TargetAction.SHIP,
            {"state": State.FINALIZING, "cycle_due": False, "queued": 1, "queued_scans": 1},
        ),
        (
            SourceAction.WAIT,
            TargetAction.SHIP,
            {"state": State.FINALIZING, "cycle_due": False, "queued": 2, "queued_scans": 1, "closing": True},
        ),
        # Captures go on while the point that closes the scan waits for the store.
        (SourceAction.CYCLE, TargetAction.SHIP, {"state": State.FINALIZING, "queued": 1, "closing": True}),
    ],
)
def test_what_is_next(source, target, change):
    view = READY._replace(**change)
    assert (source_action(view), target_action(view)) == (source, target)


def test_no_point_is_made_from_what_is_not_in_order():
    made = [view for view in VIEWS if source_action(view) is SourceAction.CYCLE]
    assert made
    for view in made:
        assert view.tracked
        assert not view.unknown
        assert not view.scanning
        assert view.state not in IDLE | {State.RESYNC_REQUIRED, State.INITIAL_REPLICATION}
        assert view.cycle_due or view.state in (State.FINALIZING, State.RESYNCHRONIZING)


def test_no_scan_by_hashes_that_are_not_known():
    scans = [view for view in VIEWS if source_action(view) is SourceAction.SCAN]
    assert scans
    assert all(view.tracked and view.scanning and not view.unknown for view in scans)


def test_nothing_is_written_to_a_store_out_of_turn():
    for view in VIEWS:
        action = target_action(view)
        if view.state in IDLE or not view.ship_due:
            assert action is TargetAction.WAIT
        if action is TargetAction.SHIP:
            assert view.attached
            assert view.queued
            assert not view.unlearned


def test_nobody_waits_for_ever():
    """Where all is due, open and nothing idle, one of the two sides has something to do."""
    for view in VIEWS:
        if view.state not in IDLE and view.cycle_due and view.ship_due and view.resync_open and not view.full:
            assert (source_action(view), target_action(view)) != (SourceAction.WAIT, TargetAction.WAIT), view


@pytest.mark.parametrize("state", list(State))
def test_the_first_target_lets_another_come_first_whatever_it_waits_for_itself(state):
    view = READY._replace(state=state, yields=True, ship_due=False, attached=False)
    rests = state in (State.NEW, State.PAUSED, State.FENCED, State.SEALED)
    assert target_action(view) is (TargetAction.WAIT if rests else TargetAction.YIELD)
