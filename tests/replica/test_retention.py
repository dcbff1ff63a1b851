"""Retention: which points stay and why, by table and by property."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.errors import InvalidRequest
from standby.replica.documents import Hold, Record
from standby.replica.retention import APPLICATION, Tier, Verdict, decide, parse_tier
from tests.support.replicas import REPLICA

NOON = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
CRASH = "crash-consistent"
MINUTE, HOUR, DAY = 60, 3600, 86_400


def point(seq: int, at: datetime, consistency: str = CRASH) -> Record:
    return Record(
        replica=REPLICA,
        seq=seq,
        epoch=1,
        kind="point",
        nonce=str(seq),
        parent="",
        at=at.isoformat(),
        writer="",
        consistency=consistency,
    )


def ago(*minutes: float, app: Sequence[float] = ()) -> list[Record]:
    """Points so many minutes before noon, numbered by their minute; those in `app` application-consistent."""
    return [
        point(seq, NOON - timedelta(minutes=m), APPLICATION if m in app else CRASH)
        for seq, m in enumerate(sorted({*minutes, *app}, reverse=True), 1)
    ]


def minutes_kept(verdicts: list[Verdict]) -> list[float]:
    return [(NOON - datetime.fromisoformat(v.point.at)).total_seconds() / 60 for v in verdicts if v.keep]


TABLE = [
    ("everything is young", ["all:1h"], ago(50, 10, 0), [50, 10, 0]),
    ("what is old goes", ["all:1h"], ago(61, 60, 0), [60, 0]),
    ("nothing but the newest", [], ago(50, 10), [10]),
    ("the first of each hour", ["1h:1d"], ago(170, 130, 110, 70, 0), [170, 110, 0]),
    ("application-consistent ones first", ["1h:1d"], ago(170, 130, 60, 0, app=[150, 125]), [150, 60, 0]),
    ("tiers add up", ["all:10m", "1h:2h"], ago(200, 115, 80, 9, 5, 0), [115, 9, 5, 0]),
    ("days begin at midnight, UTC", ["1d:3d"], ago(1500, 1450, 730, 700, 650, 0), [1500, 700, 0]),
]


@pytest.mark.parametrize(("_name", "keep", "points", "stay"), TABLE, ids=[row[0] for row in TABLE])
def test_what_stays(_name, keep, points, stay):
    assert minutes_kept(decide(points, [parse_tier(one) for one in keep], NOON)) == stay


def test_every_point_has_its_reason():
    points = ago(3000, 170, 130, 20, 0, app=[150])
    holds = [Hold(id="h", seq=points[3].seq, by="standby failover test on b", since_version=1)]
    tiers = [parse_tier("all:30m"), parse_tier("1h:1d")]
    told = {v.point.seq: (v.keep, v.reasons) for v in decide(points, tiers, NOON, holds)}
    assert told == {
        1: (False, ("it is older than 1 day",)),
        2: (False, ("point 3 stands for the hour from 2026-11-24 09:00 (UTC)",)),
        3: (
            True,
            (
                "it is the first application-consistent point of the hour from 2026-11-24 09:00 (UTC), "
                "kept for 1 day",
            ),
        ),
        4: (True, ("it is in use by standby failover test on b",)),
        5: (
            True,
            (
                "it is not older than 30 minutes",
                "it is the first point of the hour from 2026-11-24 11:00 (UTC), kept for 1 day",
            ),
        ),
        6: (
            True,
            (
                "it is the newest point",
                "it is not older than 30 minutes",
                "it is the first point of the hour from 2026-11-24 12:00 (UTC), kept for 1 day",
            ),
        ),
    }


def test_a_machine_that_is_off_keeps_its_points():
    points = ago(50, 10, 0)
    assert minutes_kept(decide(points, [parse_tier("all:1h")], NOON + timedelta(days=400))) == [50, 10, 0]


def test_one_clock_that_is_wrong_takes_nothing_away():
    ahead = [*ago(50, 10), point(9, NOON + timedelta(days=400))]
    assert all(v.keep for v in decide(ahead, [parse_tier("all:1h")], NOON))


@pytest.mark.parametrize("text", ["", "2h", "all", "all:0h", "0h:1d", "1h:", "1x:2d", "1h:3d:4d", "-1h:2d"])
def test_what_is_no_tier_is_told(text):
    with pytest.raises(InvalidRequest, match="HOW-OFTEN:HOW-LONG.*all:2h"):
        parse_tier(text)


def test_a_tier_that_is_shorter_than_its_slots_is_refused():
    with pytest.raises(InvalidRequest, match="one point every hour for 20 minutes only"):
        parse_tier("1h:20m")


def test_tiers_read_as_they_are_said():
    assert str(parse_tier("all:2h")) == "every point for 2 hours"
    assert str(parse_tier("90m:1w")) == "one point every 90 minutes for 1 week"


# Seconds between points and whether each is application-consistent.
history = st.lists(
    st.tuples(st.sampled_from([30, 60, 600, HOUR, 5 * HOUR]), st.booleans()), min_size=1, max_size=60
)
policies = st.lists(
    st.builds(
        Tier,
        st.sampled_from([0, 10 * MINUTE, HOUR, 7 * HOUR, DAY]),
        st.sampled_from([DAY, 30 * HOUR, 5 * DAY]),
    ),
    max_size=3,
)
nested = st.sets(
    st.sampled_from(
        [
            Tier(0, 20 * MINUTE),
            Tier(0, 5 * HOUR),
            Tier(10 * MINUTE, 10 * MINUTE),
            Tier(HOUR, 90 * MINUTE),
            Tier(HOUR, 30 * HOUR),
            Tier(DAY, DAY),
            Tier(DAY, 5 * DAY),
        ]
    )
).map(sorted)


def built(steps) -> list[Record]:
    at, points = NOON, []
    for seq, (step, app) in enumerate(steps, 1):
        at += timedelta(seconds=step)
        points.append(point(seq, at, APPLICATION if app else CRASH))
    return points


def last(points: Sequence[Record]) -> datetime:
    return datetime.fromisoformat(points[-1].at)


@settings(max_examples=200, deadline=None)
@given(history, policies, st.sets(st.integers(1, 60), max_size=3))
def test_the_newest_and_the_held_stay_and_each_verdict_has_a_reason(steps, tiers, held):
    points = built(steps)
    holds = [Hold(id=str(seq), seq=seq, by="x", since_version=1) for seq in held]
    verdicts = decide(points, tiers, last(points), holds)
    assert [v.point for v in verdicts] == points
    assert verdicts[-1].keep
    assert all(v.keep for v in verdicts if v.point.seq in held)
    assert all(v.reasons and all(v.reasons) for v in verdicts)


@settings(max_examples=200, deadline=None)
@given(history, policies, st.integers(1, 60))
def test_what_was_dropped_once_is_never_kept_later(steps, tiers, now):
    points = built(steps)
    then = points[:now]
    dropped = {v.point.seq for v in decide(then, tiers, last(then)) if not v.keep}
    assert not dropped & {v.point.seq for v in decide(points, tiers, last(points)) if v.keep}


def kept_by_runs(points: list[Record], tiers: list[Tier], runs: set[int]) -> list[Record]:
    """Dropped points are really gone for the runs that follow."""
    alive: list[Record] = []
    for number, new in enumerate(points, 1):
        alive.append(new)
        if number in runs or number == len(points):
            alive = [v.point for v in decide(alive, tiers, last(alive)) if v.keep]
    return alive


@settings(max_examples=200, deadline=None)
@given(history, policies, st.sets(st.integers(1, 60)))
def test_running_often_loses_nothing_that_running_once_would_keep(steps, tiers, runs):
    points = built(steps)
    alive = {point.seq for point in kept_by_runs(points, tiers, runs)}
    assert alive >= {v.point.seq for v in decide(points, tiers, last(points)) if v.keep}


@settings(max_examples=300, deadline=None)
@given(history, nested, st.sets(st.integers(1, 60)))
def test_running_often_or_seldom_ends_with_the_same_points(steps, tiers, runs):
    points = built(steps)
    alive = kept_by_runs(points, tiers, runs)
    assert alive == [v.point for v in decide(points, tiers, last(points)) if v.keep]
    # And again changes nothing.
    assert [v.point for v in decide(alive, tiers, last(points)) if v.keep] == alive


@settings(max_examples=200, deadline=None)
@given(history, st.sampled_from([10 * MINUTE, HOUR, 7 * HOUR, DAY]))
def test_a_slot_keeps_an_application_consistent_point_if_it_has_one(steps, every):
    points = built(steps)
    kept = {v.point.seq for v in decide(points, [Tier(every, 1000 * DAY)], last(points)) if v.keep}
    slots: dict[int, list[Record]] = {}
    for one in points:
        slots.setdefault(int(datetime.fromisoformat(one.at).timestamp()) // every, []).append(one)
    for inside in slots.values():
        stays = [one for one in inside if one.seq in kept and one is not points[-1]]
        assert len(stays) <= 1
        if any(one.consistency == APPLICATION for one in inside) and stays:
            assert stays[0].consistency == APPLICATION
        assert [one for one in inside if one.seq in kept]
