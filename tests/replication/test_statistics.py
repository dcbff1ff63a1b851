"""Statistics per monitoring interval: what each event adds, when an interval ends, and that size is bounded."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import InvalidRequest
from standby.replica.format import BLOCK, PAGE
from standby.replication.dirty import DirtyBlocks
from standby.replication.statistics import (
    PARTS,
    REGIONS,
    Captured,
    Committed,
    DiskChange,
    Failed,
    History,
    Missed,
    Monitoring,
    Statistics,
    Waiting,
    after,
    begin,
    change_of,
    region_bytes,
    rolled,
)

BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 6, 10, 10, tzinfo=UTC)
GIB = 1 << 30
DEFAULT = Monitoring()


def told(*events, history=None, monitoring=DEFAULT) -> Statistics:
    history = history or begin(NOON, monitoring, BERLIN)
    for event in events:
        history = after(history, event, monitoring, BERLIN)
    return history.current


def committed(latency: float, stored: int = 0, frequency: int = 30) -> Committed:
    return Committed(at=NOON, instant=NOON - timedelta(seconds=latency), stored=stored, frequency=frequency)


@pytest.mark.parametrize(
    ("hours", "at", "since", "until"),
    [
        (12, "2026-06-10 10:00", "2026-06-10 09:00", "2026-06-10 21:00"),
        (12, "2026-06-10 09:00", "2026-06-10 09:00", "2026-06-10 21:00"),
        (12, "2026-06-10 08:59", "2026-06-09 21:00", "2026-06-10 09:00"),
        (1, "2026-06-10 10:59", "2026-06-10 10:00", "2026-06-10 11:00"),
        (168, "2026-06-10 10:00", "2026-06-08 09:00", "2026-06-15 09:00"),
        # The nights of the clock changes: an hour shorter, an hour longer, boundaries where they always are.
        (12, "2026-03-28 23:00", "2026-03-28 21:00", "2026-03-29 09:00"),
        (12, "2026-10-24 23:00", "2026-10-24 21:00", "2026-10-25 09:00"),
    ],
)
def test_an_interval_begins_at_nine_on_the_hosts_clock(hours, at, since, until):
    found = Monitoring(hours=hours).interval(datetime.fromisoformat(at).replace(tzinfo=BERLIN), BERLIN)
    assert [f"{one.astimezone(BERLIN):%Y-%m-%d %H:%M}" for one in found] == [since, until]


@given(
    st.integers(1, 168),
    st.times(),
    st.integers(1293840000, 1893456000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
    st.sampled_from([BERLIN, ZoneInfo("Australia/Lord_Howe"), ZoneInfo("Pacific/Apia")]),
)
def test_every_instant_lies_in_one_interval(hours, start, at, tz):
    monitoring = Monitoring(hours=hours, start=start)
    since, until = monitoring.interval(at, tz)
    assert since <= at < until
    assert monitoring.interval(since, tz) == (since, until)
    assert monitoring.interval(until, tz)[0] == until


@pytest.mark.parametrize("hours", [0, 169])
def test_an_interval_lasts_an_hour_to_a_week(hours):
    with pytest.raises(InvalidRequest, match="1 hour to 7 days"):
        Monitoring(hours=hours)


def test_the_running_interval_becomes_the_previous_one():
    history = after(begin(NOON, DEFAULT, BERLIN), Missed(at=NOON), DEFAULT, BERLIN)
    evening = history.current.until
    assert rolled(history, evening - timedelta(seconds=1), DEFAULT, BERLIN) is history
    history = after(history, Missed(at=evening, cycles=3), DEFAULT, BERLIN)
    assert (history.previous.missed, history.current.missed) == (1, 3)
    assert history.current.since == evening
    # A clock set back counts in the interval that runs.
    history = after(history, Missed(at=NOON), DEFAULT, BERLIN)
    assert (history.previous.missed, history.current.missed) == (1, 4)
    # After days without an agent, the newest interval that was seen stays, with its own times.
    history = rolled(history, NOON + timedelta(days=5), DEFAULT, BERLIN)
    assert (history.previous.missed, history.previous.since) == (4, evening)


def test_sizes_latency_pending_and_failures():
    now = told(
        committed(2, 100),
        committed(10, 50),
        Waiting(at=NOON, pending=900),
        Waiting(at=NOON, pending=20),
        Failed(at=NOON, kind="StoreUnreachable"),
        Failed(at=NOON, kind="StoreUnreachable"),
        Failed(at=NOON, kind="ScratchFull"),
        Captured(at=NOON, disks={}, application_failed=True),
    )
    assert (now.points, now.stored.total, now.stored.largest, now.stored.average) == (2, 150, 100, 75)
    assert (now.latency.average, now.latency.largest) == (6, 10)
    assert (now.pending, now.pending_largest) == (20, 900)
    assert now.failures == {"StoreUnreachable": 2, "ScratchFull": 1}
    assert now.application_failures == 1


def test_a_point_that_took_longer_than_an_interval_counts_as_missed():
    now = told(committed(30), committed(30.1), Missed(at=NOON, cycles=2))
    assert (now.points, now.late, now.missed, now.due) == (2, 1, 2, 4)
    assert now.missed_share == 0.75
    assert told().missed_share == 0


def test_churn_over_time_and_over_the_disk():
    size = 64 * GIB
    region = region_bytes(size)
    assert size // region == REGIONS
    later = NOON + timedelta(hours=8, minutes=50)
    now = told(
        Captured(
            at=NOON, disks={"a": DiskChange(size=size, regions={0: 8, 255: 4}), "b": DiskChange(size=1)}
        ),
        Captured(at=later, disks={"a": DiskChange(size=size, regions={255: 16})}),
    )
    churn = now.disks["a"]
    assert churn.total == 28
    assert {i: n for i, n in enumerate(churn.parts) if n} == {12: 12, 47: 16}
    assert churn.hottest() == [(255 * region, region, 20), (0, region, 8)]
    assert churn.hottest(1) == [(255 * region, region, 20)]
    assert now.disks["b"].total == 0


def test_a_disk_that_grows_merges_its_regions_and_one_that_shrinks_keeps_them():
    size = 256 * BLOCK
    grown = Captured(at=NOON, disks={"a": DiskChange(size=2 * size, regions={0: 1, 255: 1})})
    now = told(Captured(at=NOON, disks={"a": DiskChange(size=size, regions={0: 2, 1: 3, 255: 5})}), grown)
    churn = now.disks["a"]
    assert churn.region == 2 * BLOCK
    assert {i: n for i, n in enumerate(churn.regions) if n} == {0: 6, 127: 5, 255: 1}
    shrunk = Captured(at=NOON, disks={"a": DiskChange(size=size, regions={255: 7})})
    churn = told(shrunk, history=History(current=now)).disks["a"]
    assert {i: n for i, n in enumerate(churn.regions) if n} == {0: 6, 127: 12, 255: 1}


@given(st.lists(st.tuples(st.integers(1, 4 << 40), st.integers(0, 1 << 40)), max_size=8))
def test_churn_is_bounded_and_loses_nothing(changes):
    events = []
    for size, number in changes:
        last = (size - 1) // region_bytes(size)
        events.append(
            Captured(
                at=NOON, disks={"a": DiskChange(size=size, regions={min(number % REGIONS, last): number + 1})}
            )
        )
    now = told(*events)
    for churn in now.disks.values():
        assert sum(churn.regions) == sum(churn.parts) == sum(number + 1 for _, number in changes)
        assert len(churn.regions) <= REGIONS
        assert len(churn.parts) == PARTS


def test_dirty_blocks_by_region():
    size = 512 * BLOCK
    dirty = DirtyBlocks(np.array([0, 1, 2, 511], np.uint32), np.array([1, 3, 0xFFFF, 1 << 15], np.uint16))
    assert change_of(dirty, size) == DiskChange(size=size, regions={0: 3 * PAGE, 1: 16 * PAGE, 255: PAGE})
    twice = change_of(dirty, size).plus(DiskChange(size=size, regions={1: 5, 255: 1}))
    assert twice == DiskChange(size=size, regions={0: 3 * PAGE, 1: 16 * PAGE + 5, 255: PAGE + 1})
    assert change_of(DirtyBlocks(dirty.blocks[:0], dirty.masks[:0]), size).regions == {}


def test_a_history_survives_json():
    history = begin(NOON, Monitoring(start=time(9, 30)), BERLIN)
    for event in (
        Captured(at=NOON, disks={"a": DiskChange(size=GIB, regions={3: 5})}),
        committed(3, 7),
        Failed(at=NOON, kind="StoreFull"),
        Missed(at=NOON + timedelta(days=1)),
    ):
        history = after(history, event, DEFAULT, BERLIN)
    encoded = msgspec.json.encode(history)
    assert msgspec.json.decode(encoded, type=History) == history
    assert len(encoded) < 4096
