"""How far a queue is from its limits, and when it will be there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.replication.forecast import (
    SAMPLES,
    Sample,
    backlog,
    limit_of,
    rate,
    reached,
    room,
    sampled,
    share_of,
    size_of,
)

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 6, 10, 10, tzinfo=UTC)
MIB = 1 << 20
GIB = 1 << 30


def every(seconds: int, *counts: int) -> list[Sample]:
    """Samples, the newest of which is of noon."""
    first = NOON - timedelta(seconds=seconds * (len(counts) - 1))
    return [Sample(first + timedelta(seconds=seconds * i), count) for i, count in enumerate(counts)]


def test_a_steady_growth_reaches_the_limit_when_arithmetic_says():
    # 10 MiB every 30 s; 3 GiB are left to 50 % of 10 GiB.
    queued = [2 * GIB - (9 - i) * 10 * MIB for i in range(10)]
    found = backlog("sda", every(30, *queued), 10 * GIB)
    assert found.reached_at == NOON + timedelta(seconds=9216)
    assert found.sentence(NOON, BERLIN) == (
        "Disk sda: 2.0 GiB of logs wait, 20 % of its 10.0 GiB; the limit is 50 % and is reached at 14:33 at this rate."
    )


def test_one_large_cycle_is_no_trend():
    steady = [i * MIB for i in range(20)]
    jump = [count + (4 * GIB if i >= 10 else 0) for i, count in enumerate(steady)]
    assert rate(every(30, *steady)) == pytest.approx(MIB / 30)
    # One spike among twenty samples leaves the rate where it was.
    spike = [count + (4 * GIB if i == 10 else 0) for i, count in enumerate(steady)]
    assert rate(every(30, *spike)) == pytest.approx(MIB / 30, rel=0.1)
    assert rate(every(30, *jump)) > MIB / 30


@pytest.mark.parametrize(
    "counts",
    [
        [0] * 10,
        [5 * MIB, 0] * 10,
        [100 * MIB - i * MIB for i in range(10)],
        [GIB, GIB, GIB, GIB],
    ],
    ids=["empty", "emptied after every cycle", "shrinking", "standing"],
)
def test_what_does_not_grow_has_no_forecast(counts):
    found = backlog("sda", every(30, *counts), 10 * GIB)
    assert found.reached_at is None
    assert "at this rate" not in found.sentence(NOON, BERLIN)


def test_too_few_or_too_short_a_watch_or_too_far_away_has_no_forecast():
    assert reached(every(60, 0, MIB, 2 * MIB), GIB) is None
    assert reached(every(10, *range(0, 12 * MIB, MIB)), GIB) is None
    assert reached(every(10, *range(0, 13 * MIB, MIB)), GIB) is not None
    week = 7 * 24 * 3600
    assert reached(every(60, 0, 60, 120, 180), 180 + week - 1) is not None
    assert reached(every(60, 0, 60, 120, 180), 180 + week) is None


def test_only_the_newest_samples_count():
    old = [i * GIB for i in range(50)]
    assert rate(every(30, *old, *[50 * GIB] * SAMPLES)) == 0


@pytest.mark.parametrize(("queued", "exceeded"), [(5 * GIB - 1, False), (5 * GIB, True), (5 * GIB + 1, True)])
def test_a_queue_at_its_share_makes_points_wait(queued, exceeded):
    found = backlog("sda", every(30, queued), 10 * GIB)
    assert found.exceeded is exceeded
    assert ("no point is made" in found.sentence(NOON, BERLIN)) is exceeded


def test_the_room_on_the_volume_counts_whoever_fills_it():
    free = [20 * GIB - i * GIB for i in range(10)]
    found = room("/var/spool", every(60, *free))
    assert not found.exceeded
    # 11 GiB are free, 1 is kept: ten minutes.
    assert found.reached_at == NOON + timedelta(minutes=10)
    assert found.sentence(NOON, BERLIN) == (
        "Volume of /var/spool: 11.0 GiB are free, and a new log needs 1.0 GiB; at this rate no more are left at 12:10."
    )
    assert room("/var/spool", every(60, GIB)).exceeded is False
    full = room("/var/spool", every(60, GIB - 1))
    assert full.exceeded
    assert "no point is made until there is room" in full.sentence(NOON, BERLIN)


@pytest.mark.parametrize(
    ("queued", "step", "presses"),
    [
        # 5 % of the limit of 5 GiB are 256 MiB; what is left is reached within a day from 1.69 MiB every 30 s on.
        (256 * MIB, 2 * MIB, True),
        (256 * MIB - 1, 2 * MIB, False),
        (256 * MIB, MIB, False),
        (256 * MIB, 0, False),
        (5 * GIB + 1, 0, True),
    ],
)
def test_a_queue_is_worth_a_warning_when_it_is_large_and_its_limit_near(queued, step, presses):
    samples = every(30, *(queued - (9 - i) * step for i in range(10)))
    assert backlog("sda", samples, 10 * GIB).presses(NOON) is presses


@pytest.mark.parametrize(("step", "presses"), [(0, False), (10 * MIB, False), (100 * MIB, True)])
def test_a_volume_is_worth_a_warning_when_it_is_full_within_a_day(step, presses):
    free = [100 * GIB - i * step for i in range(10)]
    assert room("/", every(60, *free)).presses(NOON) is presses
    assert room("/", every(60, 5)).presses(NOON)


@given(
    st.lists(st.integers(0, 1 << 40), min_size=1, max_size=40),
    st.integers(1, 3600),
    st.integers(1, 1 << 40),
)
def test_a_forecast_is_after_the_newest_sample_and_only_where_it_grows(counts, seconds, limit):
    samples = every(seconds, *counts)
    found = reached(samples, limit)
    if found is not None:
        assert found > NOON
        assert rate(samples) > 0
        assert counts[-1] < limit


@given(st.integers(1, 1 << 30), st.integers(4, 40), st.integers(40, 600))
def test_a_straight_line_is_forecast_exactly(step, number, seconds):
    samples = every(seconds, *(i * step for i in range(number)))
    limit = (number + 3) * step
    assert abs(reached(samples, limit) - (NOON + timedelta(seconds=4 * seconds))) <= timedelta(seconds=1)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (3 * GIB + 100 * MIB, "3.1 GiB"),
        (1 << 52, "4096.0 TiB"),
    ],
)
def test_sizes_as_they_are_written(count, text):
    assert size_of(count) == text


def test_shares_as_they_are_written():
    assert [share_of(n, 1000) for n in (0, 1, 10, 499, 1000)] == [
        "0 %",
        "less than 1 %",
        "1 %",
        "49 %",
        "100 %",
    ]
    assert limit_of(10, 50) == 5


def test_points_every_second_leave_samples_that_tell_a_rate():
    """Of 30 samples as they come, all would be of the last half minute: too short a watch for a rate."""
    samples: tuple[Sample, ...] = ()
    for second in range(600):
        samples = sampled(samples, Sample(NOON + timedelta(seconds=second), second * MIB))
        assert samples[-1].amount == second * MIB
    assert len(samples) == SAMPLES
    assert rate(samples) == pytest.approx(MIB)
