"""Recovery points on a line of time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from standby.vault.schema import Point

WIDTH: Final = 1000
_EDGE: Final = 12
_STEPS: Final = tuple(
    timedelta(seconds=one) for one in (10, 30, 60, 300, 900, 1800, 3600, 10800, 21600, 43200, 86400, 604800)
)


class Dot(NamedTuple):
    """x: its place, of WIDTH. application: it is consistent for the guest's applications."""

    x: float
    point: Point
    application: bool


class Tick(NamedTuple):
    x: float
    at: datetime


class Timeline(NamedTuple):
    dots: Sequence[Dot]
    ticks: Sequence[Tick]


def timeline(points: Sequence[Point]) -> Timeline:
    """points: newest first, as they are listed."""
    if not points:
        return Timeline((), ())
    newest, oldest = points[0].at, points[-1].at
    span = max((newest - oldest).total_seconds(), 1.0)

    def place(at: datetime) -> float:
        return round(_EDGE + (at - oldest).total_seconds() / span * (WIDTH - 2 * _EDGE), 1)

    dots = [Dot(place(one.at), one, one.consistency.startswith("app")) for one in reversed(points)]
    step = next((one for one in _STEPS if span / one.total_seconds() <= 6), _STEPS[-1]).total_seconds()
    first = oldest.timestamp() // step * step + step
    ticks: list[Tick] = []
    while first <= newest.timestamp() and len(ticks) < 8:
        at = datetime.fromtimestamp(first, oldest.tzinfo)
        ticks.append(Tick(place(at), at))
        first += step
    return Timeline(dots, ticks)
