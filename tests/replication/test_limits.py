"""Bandwidth by time of day and weekday."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import InvalidRequest
from standby.replication.hours import Hours
from standby.replication.limits import LOWEST, UNLIMITED, Bandwidth

BERLIN = ZoneInfo("Europe/Berlin")
OFFICE = Bandwidth(work=1_000_000, other=5_000_000)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).astimezone(UTC)


@pytest.mark.parametrize(
    ("when", "rate", "until"),
    [
        ("2026-06-10 08:59", 5_000_000, "2026-06-10 09:00"),
        ("2026-06-10 09:00", 1_000_000, "2026-06-10 18:00"),
        ("2026-06-10 17:59", 1_000_000, "2026-06-10 18:00"),
        ("2026-06-10 18:00", 5_000_000, "2026-06-11 09:00"),
        # Over a weekend (12 June is a Friday), and over one on which the clock changes.
        ("2026-06-12 18:00", 5_000_000, "2026-06-15 09:00"),
        ("2026-06-13 12:00", 5_000_000, "2026-06-15 09:00"),
        ("2026-03-28 12:00", 5_000_000, "2026-03-30 09:00"),
    ],
)
def test_the_rate_and_when_it_changes(when, rate, until):
    assert OFFICE.rate(at(when), BERLIN) == rate
    assert OFFICE.next_change(at(when), BERLIN) == at(until)


def test_a_night_shift_is_of_the_day_on_which_it_begins():
    friday = Bandwidth(work=LOWEST, work_hours=Hours(start=time(22), end=time(6), days=frozenset([4])))
    assert friday.rate(at("2026-06-13 05:59"), BERLIN) == LOWEST
    assert friday.rate(at("2026-06-13 06:00"), BERLIN) is None
    assert friday.rate(at("2026-06-13 22:00"), BERLIN) is None


def test_without_a_limit_nothing_changes():
    assert UNLIMITED.rate(at("2026-06-10 12:00"), BERLIN) is None
    assert UNLIMITED.next_change(at("2026-06-10 12:00"), BERLIN) is None
    assert Bandwidth(work=LOWEST, other=LOWEST).next_change(at("2026-06-10 12:00"), BERLIN) is None


def test_a_rate_that_is_too_low_is_refused_and_one_at_the_edge_is_not():
    Bandwidth(work=LOWEST)
    with pytest.raises(InvalidRequest, match="a bandwidth of 511 kbit/s; it can be 512 kbit/s or more"):
        Bandwidth(other=LOWEST - 1)


@given(
    st.none() | st.integers(LOWEST, 1 << 30),
    st.none() | st.integers(LOWEST, 1 << 30),
    st.integers(1293840000, 1893456000),
)
def test_between_changes_the_rate_stays(work, other, seconds):
    schedule = Bandwidth(work=work, other=other)
    when = datetime.fromtimestamp(seconds, UTC)
    rate, change = schedule.rate(when, BERLIN), schedule.next_change(when, BERLIN)
    if change is None:
        assert work == other
        return
    assert schedule.rate(change, BERLIN) != rate
    assert schedule.rate(change - timedelta(seconds=1), BERLIN) == rate
    assert schedule.rate(when + (change - when) / 2, BERLIN) == rate


def test_a_schedule_survives_json():
    assert msgspec.json.decode(msgspec.json.encode(OFFICE), type=Bandwidth) == OFFICE
