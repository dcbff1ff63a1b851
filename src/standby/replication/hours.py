"""Hours of the day on a host's clock, as instants, also where that clock is set forward or back. Pure.

A span of hours begins when the clock first shows its start, and ends when the clock first shows its end. A time
that the clock skips counts as shown at the jump; a time that it shows twice counts once. So a span is open
once on each of its days at most, and every instant is inside or outside of it without ambiguity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from standby.errors import InvalidRequest

EVERY_DAY: Final = frozenset(range(7))

_FARTHEST: Final = 15
"""Days after which a weekly span has begun again, even if a clock change swallowed one of them."""


class Span(NamedTuple):
    """From `begin` until just before `end`, both in UTC."""

    begin: datetime
    end: datetime


class Hours(msgspec.Struct, frozen=True, kw_only=True):
    """From `start` to `end` on the host's clock, on the weekdays (Monday is 0) on which it starts.

    An `end` at or before `start` lies on the next day.
    """

    start: time
    end: time
    days: frozenset[int] = EVERY_DAY

    def __post_init__(self) -> None:
        check_wall(self.start)
        check_wall(self.end)
        if unknown := sorted(self.days - EVERY_DAY):
            raise InvalidRequest(
                f"a weekday {unknown[0]}", subject="policy", hint="weekdays are 0 (Monday) to 6 (Sunday)"
            )

    def on(self, day: date, tz: tzinfo) -> Span:
        """The span that starts on `day`; empty where the clock skips all of it."""
        last = day if self.start < self.end else day + timedelta(days=1)
        return Span(instant(day, self.start, tz), instant(last, self.end, tz))

    def is_open(self, at: datetime, tz: tzinfo) -> bool:
        return any(span.begin <= at < span.end for span in self._around(at, tz, ahead=1))

    def next_opening(self, at: datetime, tz: tzinfo) -> datetime:
        """When the first span that begins after `at` begins. Raises InvalidRequest if there are no days."""
        for span in self._around(at, tz):
            if span.begin > at:
                return span.begin
        raise InvalidRequest(f"no day has the hours {self}", subject="policy", hint="name a weekday")

    def next_change(self, at: datetime, tz: tzinfo) -> datetime | None:
        """The first instant after `at` at which `is_open` answers otherwise than at `at`; None if it never does."""
        spans = list(self._around(at, tz))
        opened = any(span.begin <= at < span.end for span in spans)
        # Edges at which nothing changes (00:00 to 00:00 on two days) are passed over.
        edges = sorted({edge for span in spans for edge in span if edge > at})
        for edge in edges[:-1]:
            if any(span.begin <= edge < span.end for span in spans) is not opened:
                return edge
        return None

    def __str__(self) -> str:
        return f"{self.start:%H:%M}–{self.end:%H:%M}"

    def _around(self, at: datetime, tz: tzinfo, ahead: int = _FARTHEST) -> Iterator[Span]:
        day = at.astimezone(tz).date()
        for distance in range(-1, ahead + 1):
            one = day + timedelta(days=distance)
            if one.weekday() in self.days:
                span = self.on(one, tz)
                if span.begin < span.end:
                    yield span


def check_wall(wall: time) -> None:
    """Raises InvalidRequest for a time of day that names a zone of its own: the host's is meant."""
    if wall.tzinfo is not None:
        raise InvalidRequest(
            f"the time of day {wall.isoformat()} names an offset",
            subject="policy",
            hint="leave the offset out: times of day are those of the host's clock",
        )


def instant(day: date, wall: time, tz: tzinfo) -> datetime:
    """The first instant (UTC) at which the clock shows `wall` on `day` or has gone past it."""
    local = datetime.combine(day, wall)
    first = local.replace(tzinfo=tz).astimezone(UTC)
    if first.astimezone(tz).replace(tzinfo=None) == local:
        return first
    # The clock jumps over it. Before the jump the offset is that of fold 0, after it that of fold 1.
    early, late = local.replace(tzinfo=tz, fold=1).astimezone(UTC), first
    after = late.astimezone(tz).utcoffset()
    while late - early > timedelta(seconds=1):
        middle = early + timedelta(seconds=(late - early) // timedelta(seconds=2))
        if middle.astimezone(tz).utcoffset() == after:
            late = middle
        else:
            early = middle
    return late


def shown(at: datetime, now: datetime, tz: tzinfo) -> str:
    """`14:20` today, `14:20 on 25 November` on another day."""
    local = at.astimezone(tz)
    if local.date() == now.astimezone(tz).date():
        return f"{local:%H:%M}"
    return f"{local:%H:%M} on {local.day} {local:%B}"


def host_zone() -> tzinfo:
    """The zone of this host's clock, from $TZ or /etc/localtime; UTC where there is neither.

    Raises InvalidRequest if $TZ names no zone that this host has.
    """
    if name := os.environ.get("TZ", "").removeprefix(":"):
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise InvalidRequest(
                f"$TZ is {name!r}, which is no time zone on this host",
                subject="time zone",
                hint="set it to a name like Europe/Berlin, or unset it; the package tzdata has the zones",
            ) from error
    local = Path("/etc/localtime")
    if not local.exists():
        return UTC
    try:
        return ZoneInfo(str(local.resolve()).partition("zoneinfo/")[2])
    except (ZoneInfoNotFoundError, ValueError):
        # A copy in place of the usual link: the rules are there, the name is not.
        with local.open("rb") as file:
            return ZoneInfo.from_file(file, key=None)
