"""Health, threshold by threshold, on both sides of each edge."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.replication.health import Compared, Facts, Level, Problem, health
from standby.replication.states import State
from standby.replication.statistics import Series, Statistics

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 6, 10, 10, tzinfo=UTC)
SINCE, UNTIL = NOW - timedelta(hours=3), NOW + timedelta(hours=9)
GOOD = Facts(
    state=State.PROTECTED,
    newest_point=NOW - timedelta(seconds=31),
    last_sync=NOW - timedelta(seconds=30),
    statistics=Statistics(since=SINCE, until=UNTIL, points=360),
)


def facts(**changed) -> Facts:
    return Facts(**{**GOOD.__dict__, **changed})


def counted(**numbers) -> Facts:
    return facts(statistics=Statistics(since=SINCE, until=UNTIL, **numbers))


def latency(average: float) -> Facts:
    return counted(points=10, latency=Series(count=10, total=average * 10, largest=average))


def found(given: Facts) -> list[tuple[Level, str]]:
    return [(reason.level, reason.text) for reason in health(given, NOW, BERLIN).reasons]


def test_normal_has_no_reason_and_both_numbers():
    shown = health(GOOD, NOW, BERLIN)
    assert (shown.level, shown.reasons) == (Level.NORMAL, ())
    assert shown.newest_point == NOW - timedelta(seconds=31)
    assert shown.rpo == 31


@pytest.mark.parametrize(
    ("given", "level", "text"),
    [
        (counted(points=80, missed=20), None, ""),
        (
            counted(points=79, missed=21),
            Level.WARNING,
            "In this .* 21 of 100 cycles were missed; the limit is 20 %",
        ),
        (counted(points=100, late=20), None, ""),
        (counted(points=100, late=21), Level.WARNING, "21 of 100 cycles"),
        (counted(points=4, late=1), Level.WARNING, "1 of 4"),
        (counted(), None, ""),
        (facts(last_sync=NOW - timedelta(minutes=59, seconds=59)), None, ""),
        (facts(last_sync=NOW - timedelta(hours=1)), Level.WARNING, "last sent changes 1 h 0 min ago"),
        (facts(last_sync=NOW - timedelta(days=3)), Level.WARNING, "last sent changes 3 days ago"),
        (facts(last_sync=None), None, ""),
        (latency(300), None, ""),
        (latency(300.5), Level.WARNING, "committed 5 min 0 s after its instant on average"),
        (facts(newest_point=NOW + timedelta(minutes=1)), None, ""),
        (facts(newest_point=NOW + timedelta(seconds=61)), Level.WARNING, "12:01, which has not come yet"),
        (facts(forecasts=("Disk a is full at 14:20.",)), Level.WARNING, "Disk a is full at 14:20"),
        (facts(suspicious="The newest point looks odd."), Level.WARNING, "The newest point looks odd."),
        (facts(agent=False), Level.CRITICAL, "No agent is at work"),
    ],
)
def test_thresholds(given, level, text):
    reasons = health(given, NOW, BERLIN).reasons
    if level is None:
        assert reasons == ()
        return
    [reason] = reasons
    assert reason.level is level
    assert re.search(text, reason.text)


@pytest.mark.parametrize(
    ("state", "level", "text"),
    [
        (State.NEW, Level.NOT_APPLICABLE, "Replication has not been started."),
        (State.INITIAL_REPLICATION, Level.WARNING, "Initial replication is not complete."),
        (State.FINALIZING, Level.WARNING, "Initial replication is not complete."),
        (State.PROTECTED, Level.NORMAL, ""),
        (State.DELTA, Level.NORMAL, ""),
        (State.RESYNC_REQUIRED, Level.CRITICAL, "A disk must be compared with its replica"),
        (
            State.RESYNCHRONIZING,
            Level.WARNING,
            "Resynchronization runs; there is no new point until it ends.",
        ),
        (State.PAUSED, Level.WARNING, "paused by an operator"),
        (State.FENCED, Level.CRITICAL, "Another agent has taken the replica over"),
        (State.SEALED, Level.WARNING, "has not been reversed yet"),
    ],
)
def test_every_state(state, level, text):
    before = State.PROTECTED if state is State.PAUSED else None
    shown = health(facts(state=state, before_pause=before), NOW, BERLIN)
    assert shown.level is level
    assert [text in reason.text for reason in shown.reasons] == ([True] if text else [])


def test_every_state_is_in_the_table():
    rows = next(m for m in test_every_state.pytestmark if m.name == "parametrize").args[1]
    assert {row[0] for row in rows} == set(State)


@pytest.mark.parametrize(
    ("minutes", "failures", "level"),
    [(0, 1, Level.WARNING), (24.99, 5, Level.WARNING), (25, 6, Level.CRITICAL), (24.99, 50, Level.WARNING)],
)
def test_an_error_is_a_warning_during_the_back_off_and_critical_after(minutes, failures, level):
    since, retry_at = NOW - timedelta(minutes=minutes), NOW + timedelta(minutes=2)
    problem = Problem(text="store: it does not answer", since=since, failures=failures, retry_at=retry_at)
    [(got, text)] = found(facts(problems=(problem,)))
    assert got is level
    assert text.startswith("store: it does not answer. It failed ")
    assert text.endswith("the next try is at 12:02:00.")


def test_an_error_without_retry_is_critical():
    problem = Problem(text="store: no such key", since=NOW, action="name another key")
    [reason] = health(facts(problems=(problem,)), NOW, BERLIN).reasons
    assert reason == (
        Level.CRITICAL,
        "store: no such key. No retry is made: it needs a person.",
        "name another key",
    )


@pytest.mark.parametrize(
    ("opens", "text"),
    [
        (None, "Resynchronization waits for an operator to start it."),
        (NOW, "Resynchronization begins now."),
        (NOW + timedelta(hours=6, minutes=30), "Resynchronization begins at 18:30."),
        (NOW + timedelta(hours=30), "Resynchronization begins at 18:00 on 11 June."),
    ],
)
def test_what_waits_for_its_resynchronization_says_why_and_until_when(opens, text):
    disks = {
        "b": Compared(why="it was resized", opens=opens, action="wait"),
        "a": Compared(why="it was reverted"),
    }
    waiting = facts(state=State.RESYNC_REQUIRED, disks=disks)
    assert [tuple(reason) for reason in health(waiting, NOW, BERLIN).reasons] == [
        (
            Level.CRITICAL,
            "Disk a must be compared with its replica: it was reverted. "
            "Resynchronization waits for an operator to start it.",
            "",
        ),
        (Level.CRITICAL, f"Disk b must be compared with its replica: it was resized. {text}", "wait"),
    ]


def test_a_pause_hides_nothing_of_what_was_paused():
    paused = facts(
        state=State.PAUSED, before_pause=State.RESYNCHRONIZING, disks={"a": Compared(why="x")}, scanned=0.429
    )
    assert [level for level, _ in found(paused)] == [Level.WARNING, Level.WARNING]
    assert "(42 % done)" in found(paused)[1][1]


def test_all_reasons_are_listed_the_gravest_first():
    bad = facts(
        state=State.RESYNC_REQUIRED,
        last_sync=NOW - timedelta(hours=2),
        statistics=Statistics(since=SINCE, until=UNTIL, missed=1, latency=Series(count=1, total=999)),
        problems=(Problem(text="p", since=NOW, retry_at=NOW), Problem(text="q", since=NOW)),
        forecasts=("f",),
        agent=False,
    )
    levels = [level for level, _ in found(bad)]
    assert levels == [Level.CRITICAL] * 3 + [Level.WARNING] * 5
    assert health(bad, NOW, BERLIN).level is Level.CRITICAL


def test_without_a_point_there_is_no_rpo():
    shown = health(facts(state=State.INITIAL_REPLICATION, newest_point=None), NOW, BERLIN)
    assert (shown.newest_point, shown.rpo) == (None, None)
    assert health(facts(newest_point=NOW + timedelta(seconds=59)), NOW, BERLIN).rpo == 0
    assert health(facts(newest_point=NOW + timedelta(seconds=61)), NOW, BERLIN).rpo is None


def test_levels_as_they_are_written():
    assert [str(level) for level in Level] == ["Not applicable", "Normal", "Warning", "Critical"]


@given(
    st.sampled_from([one for one in State if one is not State.NEW]),
    st.sampled_from([None, State.PROTECTED, State.RESYNC_REQUIRED]),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(0, 7200),
    st.booleans(),
)
def test_the_level_is_that_of_the_gravest_reason(state, before, points, missed, ago, agent):
    some = facts(
        state=state,
        before_pause=before,
        last_sync=NOW - timedelta(seconds=ago),
        statistics=Statistics(since=SINCE, until=UNTIL, points=points, missed=missed),
        agent=agent,
    )
    shown = health(some, NOW, BERLIN)
    levels = [reason.level for reason in shown.reasons]
    assert levels == sorted(levels, reverse=True)
    assert shown.level is max(levels, default=Level.NORMAL)
    assert all(reason.text.endswith(".") and reason.text[0].isupper() for reason in shown.reasons)
