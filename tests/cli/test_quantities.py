"""Sizes, times and ages as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.cli.quantities import age, duration, ranges, size

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (64 << 10, "64 KiB"),
        ((1 << 20) - 1, "1 MiB"),
        (1 << 30, "1 GiB"),
        (1 << 40, "1 TiB"),
        (5000 << 50, "5000 PiB"),
    ],
)
def test_sizes_are_binary_and_short(count, text):
    assert size(count) == text


@given(st.integers(0, 1 << 55))
def test_a_size_is_never_more_than_eight_characters(count):
    assert len(size(count)) <= 8


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s ago"),
        (119, "119 s ago"),
        (120, "2 min ago"),
        (7199, "119 min ago"),
        (7200, "2 h ago"),
        (172_800, "2 days ago"),
        (-0.5, "0 s ago"),
        (-90, "90 s ahead"),
    ],
)
def test_ages_have_one_unit_and_a_wrong_clock_shows(seconds, text):
    assert age(NOW - timedelta(seconds=seconds), NOW) == text


@given(st.integers(0, 10**7), st.integers(0, 10**7))
def test_of_two_points_the_older_never_looks_younger(one, other):
    units = {"s": 1, "min": 60, "h": 3600, "days": 86400}

    def shown(seconds: int) -> int:
        count, unit, _ = age(NOW - timedelta(seconds=seconds), NOW).split()
        return int(count) * units[unit]

    younger, older = sorted((one, other))
    assert shown(younger) <= shown(older)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (5.21, "5.2 s"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (93_600, "1 day 2 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds, text):
    assert duration(seconds) == text


@given(st.sets(st.integers(1, 60), min_size=1))
def test_ranges_name_exactly_their_numbers(numbers):
    told: set[int] = set()
    for part in ranges(numbers).split(", "):
        low, _, high = part.partition("-")
        told |= set(range(int(low), int(high or low) + 1))
    assert told == numbers
