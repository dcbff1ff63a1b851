"""The resynchronization window, the hours of a day and the retry times, on clocks that are set forward and back."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import InvalidRequest
from standby.replication.hours import Hours, host_zone, instant
from standby.replication.retry import wait_seconds
from standby.replication.window import ResyncWindow, Start

BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
APIA = ZoneInfo("Pacific/Apia")
ZONES = (BERLIN, NEW_YORK, LORD_HOWE, ZoneInfo("UTC"), APIA)

zones = st.sampled_from(ZONES)
walls = st.times().map(lambda t: t.replace(second=0, microsecond=0))
# Minutes from 2011 to 2030: past the day that Samoa skipped.
instants = st.integers(1293840000 // 60, 1893456000 // 60).map(lambda n: datetime.fromtimestamp(n * 60, UTC))
spans = st.builds(
    lambda start, end, days: Hours(start=start, end=end, days=days),
    walls,
    walls,
    st.frozensets(st.integers(0, 6), min_size=1),
)
# Where clocks change is where it matters: draw near the changes of these zones as often as anywhere.
changes = st.sampled_from(
    [
        datetime(2026, 3, 29, 1, tzinfo=UTC),
        datetime(2026, 10, 25, 1, tzinfo=UTC),
        datetime(2026, 3, 8, 7, tzinfo=UTC),
        datetime(2026, 11, 1, 6, tzinfo=UTC),
        datetime(2026, 4, 4, 15, tzinfo=UTC),
        datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
        datetime(2011, 12, 30, 10, tzinfo=UTC),
    ]
)
near = st.builds(lambda at, minutes: at + timedelta(minutes=minutes), changes, st.integers(-2880, 2880))


@given(st.dates(date(2011, 1, 1), date(2030, 1, 1)), walls, zones)
def test_an_instant_is_the_first_at_which_the_clock_has_come_so_far(day, wall, tz):
    found = instant(day, wall, tz)
    local = datetime.combine(day, wall)
    assert found.astimezone(tz).replace(tzinfo=None) >= local
    assert (found - timedelta(seconds=1)).astimezone(tz).replace(tzinfo=None) < local


@given(spans, instants | near, zones)
def test_open_is_what_the_next_change_says_and_openings_are_openings(hours, at, tz):
    change = hours.next_change(at, tz)
    if change is None:
        assert all(hours.is_open(at + timedelta(hours=hour), tz) for hour in range(0, 400, 8))
        return
    assert change > at
    assert hours.is_open(change, tz) is not hours.is_open(at, tz)
    middle = at + (change - at) / 2
    assert hours.is_open(middle, tz) is hours.is_open(at, tz)
    opening = hours.next_opening(at, tz)
    assert opening > at
    assert hours.is_open(opening, tz)
    window = ResyncWindow(hours=hours)
    if not window.is_open(at, tz):
        assert window.next_opening(at, tz) == opening == change


@given(spans, st.integers(0, 2 * 24 * 60), zones)
def test_where_the_clock_does_not_change_the_hours_are_what_it_shows(hours, minutes, tz):
    at = datetime(2026, 6, 10, tzinfo=UTC) + timedelta(minutes=minutes)
    local = at.astimezone(tz)
    day = local.weekday()
    if hours.start < hours.end:
        expected = day in hours.days and hours.start <= local.time() < hours.end
    else:
        expected = (day in hours.days and local.time() >= hours.start) or (
            (day - 1) % 7 in hours.days and local.time() < hours.end
        )
    assert hours.is_open(at, tz) is expected


@pytest.mark.parametrize(
    ("start", "end", "day", "opens", "closes"),
    [
        # Spring: 02:00 becomes 03:00 (+01:00 to +02:00) on 29 March 2026.
        ("18:30", "06:00", "2026-03-28", "28T17:30", "29T04:00"),
        ("02:30", "03:30", "2026-03-29", "29T01:00", "29T01:30"),
        ("01:30", "02:30", "2026-03-29", "29T00:30", "29T01:00"),
        # Autumn: 03:00 becomes 02:00 (+02:00 to +01:00) on 25 October 2026; what is shown twice counts once.
        ("18:30", "06:00", "2026-10-24", "24T16:30", "25T05:00"),
        ("02:15", "02:45", "2026-10-25", "25T00:15", "25T00:45"),
        ("01:00", "04:00", "2026-10-25", "24T23:00", "25T03:00"),
    ],
)
def test_hours_on_the_nights_of_berlins_clock_changes(start, end, day, opens, closes):
    hours = Hours(start=time.fromisoformat(start), end=time.fromisoformat(end))
    span = hours.on(date.fromisoformat(day), BERLIN)
    assert [f"{at:%dT%H:%M}" for at in span] == [opens, closes]


def test_hours_that_the_clock_skips_do_not_open_that_night():
    hours = Hours(start=time(2, 15), end=time(2, 45))
    begin, end = hours.on(date(2026, 3, 29), BERLIN)
    assert begin == end
    assert hours.next_opening(datetime(2026, 3, 28, 12, tzinfo=UTC), BERLIN) == datetime(
        2026, 3, 30, 0, 15, tzinfo=UTC
    )


def test_starts_at_once_in_hours_or_when_asked():
    noon = datetime(2026, 6, 10, 12, tzinfo=UTC)
    automatic, manual = ResyncWindow(start=Start.AUTOMATIC), ResyncWindow(start=Start.MANUAL)
    assert automatic.is_open(noon, BERLIN)
    assert automatic.next_opening(noon, BERLIN) == noon
    assert not manual.is_open(noon, BERLIN)
    assert manual.next_opening(noon, BERLIN) is None
    scheduled = ResyncWindow(start=Start.SCHEDULED)
    assert not scheduled.is_open(noon, BERLIN)
    assert scheduled.next_opening(noon, BERLIN) == datetime(2026, 6, 10, 16, 30, tzinfo=UTC)


def test_hours_without_a_day_are_refused():
    with pytest.raises(InvalidRequest, match="name a weekday"):
        Hours(start=time(1), end=time(2), days=frozenset()).next_opening(
            datetime(2026, 1, 1, tzinfo=UTC), BERLIN
        )


@pytest.mark.parametrize(
    "wrong", [{"days": frozenset([7])}, {"start": time(9, tzinfo=UTC)}, {"end": time(9, tzinfo=UTC)}]
)
def test_hours_are_of_the_hosts_clock_and_of_known_days(wrong):
    with pytest.raises(InvalidRequest, match="weekdays are 0|leave the offset out"):
        Hours(**{"start": time(1), "end": time(2), **wrong})


def test_the_hosts_zone(monkeypatch):
    monkeypatch.setenv("TZ", "Australia/Lord_Howe")
    assert host_zone() is LORD_HOWE
    monkeypatch.setenv("TZ", "Mars/Olympus")
    with pytest.raises(InvalidRequest, match="Mars/Olympus"):
        host_zone()
    monkeypatch.delenv("TZ")
    assert datetime.now(host_zone()).utcoffset() == datetime.now().astimezone().utcoffset()


@pytest.mark.parametrize(
    ("tz", "changed"),
    [
        # Zone, and the nights of 2026 whose window is not 11 h 30 min long, in minutes.
        (BERLIN, {"2026-03-28": 630, "2026-10-24": 750}),
        (NEW_YORK, {"2026-03-07": 630, "2026-10-31": 750}),
        (LORD_HOWE, {"2026-04-04": 720, "2026-10-03": 660}),
        (ZoneInfo("UTC"), {}),
    ],
    ids=str,
)
def test_a_year_of_windows_and_retries(tz, changed, capsys):
    """On a fake clock, minute by minute: opens every evening at 18:30, closes every morning at 06:00."""
    window = ResyncWindow(start=Start.SCHEDULED)
    clock = datetime(2026, 1, 1, 12, tzinfo=tz).astimezone(UTC)
    end = datetime(2027, 1, 1, 12, tzinfo=tz).astimezone(UTC)
    rows = []
    opened = None
    while clock < end:
        if window.is_open(clock, tz) is (opened is None):
            if opened is None:
                opened = clock
            else:
                rows.append((opened.astimezone(tz), clock.astimezone(tz), clock - opened))
                opened = None
        # The test's own steps find the edge to the minute; between edges it looks every hour.
        step = timedelta(hours=1)
        if window.is_open(clock + step, tz) is (opened is None):
            step = timedelta(minutes=1)
        clock += step
    unusual = {}
    lines = [f"{tz}: a resynchronization may begin", "night of    opens         closes        length"]
    for begin, close, length in rows:
        assert (begin.hour, begin.minute, close.hour, close.minute) == (18, 30, 6, 0)
        minutes = int(length.total_seconds()) // 60
        if minutes != 690:
            unusual[f"{begin:%Y-%m-%d}"] = minutes
        if minutes != 690 or (begin.month, begin.day) in ((1, 1), (7, 1)):
            lines.append(
                f"{begin:%Y-%m-%d}  {begin:%H:%M %z}  {close:%H:%M %z}  {minutes // 60} h {minutes % 60:02}"
            )
    assert len(rows) == 365
    assert unusual == changed

    # An outage from before midnight and through each clock change: waits are durations, the clock only shows them.
    for night in changed or ["2026-07-01"]:
        first = instant(date.fromisoformat(night), time(23, 45), tz)
        at, tries = first, []
        for failures in range(1, 14):
            at += timedelta(seconds=wait_seconds(failures))
            tries.append(at)
        since = [int((one - first).total_seconds()) // 60 for one in tries]
        assert since == [1, 3, 7, 15, 25, *range(55, 266, 30)]
        shown = " ".join(f"{one.astimezone(tz):%H:%M}" for one in tries)
        lines.append(f"{night}  first failure {first.astimezone(tz):%H:%M}, retries {shown}")
    with capsys.disabled():
        print("\n" + "\n".join(lines))  # noqa: T201 - the table is what the test is for
