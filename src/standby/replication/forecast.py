"""How far the queue of logs is from its limits, and when it will have come there. Pure.

A disk's share is the bytes of its queued logs against its virtual size: the texts of Hyper-V Replica and Azure
Site Recovery name four different things that 50 % is of; this is the one that an operator can compute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from statistics import median
from typing import Final, NamedTuple

from standby.replication.hours import shown

BACKLOG_PERCENT: Final = 50

KEPT_FREE: Final = 1 << 30
"""Bytes that a queue never takes from the last of its volume: other programs write there, guests too."""

SAMPLES: Final = 30
"""Newest samples from which a rate is told."""

SPACING: Final = timedelta(seconds=10)
"""Least time between two samples that are kept: all of them together then span what a rate is told from."""

_FEWEST: Final = 4
_SHORTEST: Final = timedelta(minutes=2)
_HORIZON: Final = timedelta(days=7)
"""A limit that is farther away is not worth telling, and such a rate is not to be trusted."""

_WORTH_PERCENT: Final = 5
_WARNED_BEFORE: Final = timedelta(hours=24)


class Sample(NamedTuple):
    """A number of bytes at an instant."""

    at: datetime
    amount: int


class Backlog(NamedTuple):
    """One disk's queue. limit: bytes from which on no further log is made. reached_at: None if it does not
    grow."""

    disk: str
    queued: int
    size: int
    percent: int
    reached_at: datetime | None

    @property
    def limit(self) -> int:
        return limit_of(self.size, self.percent)

    @property
    def exceeded(self) -> bool:
        """Whether points are missed until the store has taken some; changes go on being tracked."""
        return self.queued >= self.limit > 0

    def presses(self, now: datetime) -> bool:
        """Whether it is worth a warning. Every queue grows for a while; a small one is no news."""
        return self.exceeded or (
            self.queued * 100 >= self.limit * _WORTH_PERCENT and _soon(self.reached_at, now)
        )

    def sentence(self, now: datetime, tz: tzinfo) -> str:
        told = (
            f"Disk {self.disk}: {size_of(self.queued)} of logs wait, {share_of(self.queued, self.size)} of its "
            f"{size_of(self.size)}; the limit is {self.percent} %"
        )
        if self.exceeded:
            return f"{told}: no point is made until the store has taken some."
        if self.reached_at is None:
            return f"{told}."
        return f"{told} and is reached at {shown(self.reached_at, now, tz)} at this rate."


class Room(NamedTuple):
    """The volume that a queue lies on. kept: bytes that must be free for a new log. reached_at: when no more are."""

    path: str
    free: int
    kept: int
    reached_at: datetime | None

    @property
    def exceeded(self) -> bool:
        """Whether no new log may be begun there."""
        return self.free < self.kept

    def presses(self, now: datetime) -> bool:
        """Whether it is worth a warning."""
        return self.exceeded or _soon(self.reached_at, now)

    def sentence(self, now: datetime, tz: tzinfo) -> str:
        told = (
            f"Volume of {self.path}: {size_of(self.free)} are free, and a new log needs {size_of(self.kept)}"
        )
        if self.exceeded:
            return f"{told}: no point is made until there is room; changes go on being tracked."
        if self.reached_at is None:
            return f"{told}."
        return f"{told}; at this rate no more are left at {shown(self.reached_at, now, tz)}."


def _soon(at: datetime | None, now: datetime) -> bool:
    return at is not None and at - now <= _WARNED_BEFORE


def sampled(samples: Sequence[Sample], newest: Sample) -> tuple[Sample, ...]:
    """The samples with one more. The newest one always stays; of those before it, one every SPACING."""
    kept = samples[:-1] if len(samples) > 1 and samples[-1].at - samples[-2].at < SPACING else samples
    return (*kept, newest)[-SAMPLES:]


def limit_of(size: int, percent: int) -> int:
    return size * percent // 100


def backlog(disk: str, samples: Sequence[Sample], size: int, percent: int = BACKLOG_PERCENT) -> Backlog:
    """samples: the disk's queued bytes after recent cycles and commits, oldest first; at least one."""
    reached_at = reached(samples, limit_of(size, percent))
    return Backlog(disk, samples[-1].amount, size, percent, reached_at)


def room(path: str, samples: Sequence[Sample], kept: int = KEPT_FREE) -> Room:
    """samples: free bytes of the volume, oldest first; at least one. Whoever fills it counts."""
    used = [Sample(at, -count) for at, count in samples]
    return Room(path, samples[-1].amount, kept, reached(used, -kept))


def reached(samples: Sequence[Sample], limit: int) -> datetime | None:
    """When the count comes to `limit` at the rate of the newest samples; None if it does not grow, grows
    too slowly to matter, is there already, or was not watched for long enough."""
    if samples[-1].amount >= limit:
        return None
    growth = rate(samples)
    if growth is None or growth <= 0:
        return None
    seconds = (limit - samples[-1].amount) / growth
    if seconds >= _HORIZON.total_seconds():
        return None
    return samples[-1].at + timedelta(seconds=math.ceil(seconds))


def rate(samples: Sequence[Sample]) -> float | None:
    """Bytes per second: the median slope of all pairs (Theil and Sen), which a third of outliers cannot move:
    one large cycle is no trend, and a queue that is emptied between cycles does not grow."""
    newest = samples[-SAMPLES:]
    if len(newest) < _FEWEST or newest[-1].at - newest[0].at < _SHORTEST:
        return None
    slopes = [
        (later.amount - earlier.amount) / seconds
        for number, later in enumerate(newest)
        for earlier in newest[:number]
        if (seconds := (later.at - earlier.at).total_seconds()) > 0
    ]
    return median(slopes) if slopes else None


def size_of(count: int) -> str:
    """`3.1 GiB`."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count} bytes" if unit == "bytes" else f"{value:.1f} {unit}"


def share_of(part: int, whole: int) -> str:
    """`31 %`; what is more than nothing is not told as nothing."""
    percent = part * 100 // whole
    return f"{percent} %" if percent or not part else "less than 1 %"
