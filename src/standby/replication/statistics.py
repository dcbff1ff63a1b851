"""What replication did in a monitoring interval (Hyper-V Replica: MonitoringInterval, MonitoringStartTime). Pure.

`after(history, event, monitoring, tz)` gives the next history. Its size is bounded whatever happens: per disk
a fixed number of parts of the interval and of regions of the disk, and the numbers of the interval before.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from typing import Final

import msgspec
import numpy as np

from standby.errors import InvalidRequest
from standby.replica.format import BLOCK, PAGE
from standby.replication.dirty import DirtyBlocks
from standby.replication.hours import check_wall, instant

PARTS: Final = 48
"""Parts of the interval over which a disk's churn is kept: a quarter of an hour each by default."""

REGIONS: Final = 256
"""Most regions of a disk in its heat map."""

_ANCHOR: Final = date(2001, 1, 1)
"""A Monday: intervals of whole days or weeks begin on the same days on every host."""


class Monitoring(msgspec.Struct, frozen=True, kw_only=True):
    """Intervals of `hours` (1 to 168), one of which begins at `start` on the host's clock."""

    hours: int = 12
    start: time = time(9, 0)

    def __post_init__(self) -> None:
        check_wall(self.start)
        if not 1 <= self.hours <= 168:
            raise InvalidRequest(
                f"a monitoring interval of {self.hours} hours; it can be 1 hour to 7 days (168)",
                subject="policy",
            )

    def interval(self, at: datetime, tz: tzinfo) -> tuple[datetime, datetime]:
        """The interval (UTC) that `at` lies in. Boundaries are times of the host's clock, so an interval in
        which it is set forward or back is an hour shorter or longer."""
        anchor = datetime.combine(_ANCHOR, self.start)
        step = timedelta(hours=self.hours)
        number = (at.astimezone(tz).replace(tzinfo=None) - anchor) // step

        def boundary(index: int) -> datetime:
            local = anchor + index * step
            return instant(local.date(), local.time(), tz)

        # Where the clock shows an hour twice, a boundary in it may have passed that it shows as still to come.
        while boundary(number + 1) <= at:
            number += 1
        return boundary(number), boundary(number + 1)


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """How many, their sum and the largest."""

    count: int = 0
    total: float = 0
    largest: float = 0

    @property
    def average(self) -> float:
        return self.total / self.count if self.count else 0.0

    def plus(self, value: float) -> Series:
        return Series(count=self.count + 1, total=self.total + value, largest=max(self.largest, value))


class Churn(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that the guest wrote to one disk: over time (PARTS of the interval) and over its regions.

    region: bytes of one region, a power of two times a block; regions[i] is about bytes i * region and on.
    """

    region: int
    regions: tuple[int, ...]
    parts: tuple[int, ...] = (0,) * PARTS

    @property
    def total(self) -> int:
        return sum(self.parts)

    def hottest(self, most: int = 10) -> list[tuple[int, int, int]]:
        """Offset, length and bytes written of the regions that churn most, the hottest first."""
        order = sorted(range(len(self.regions)), key=lambda i: (-self.regions[i], i))
        return [(i * self.region, self.region, self.regions[i]) for i in order[:most] if self.regions[i]]


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """One interval, from `since` until just before `until` (UTC).

    points: committed, late ones included. late: committed later than one replication interval after their
    instant. missed: cycles that were due and not made. stored: bytes of the points' logs. latency: seconds from
    a point's instant to its commit. pending: bytes that waited to be sent when last asked, and the most.
    failures: by kind (the error's class). application_failures: points that should have been
    application-consistent and were not.
    """

    since: datetime
    until: datetime
    points: int = 0
    late: int = 0
    missed: int = 0
    stored: Series = Series()
    latency: Series = Series()
    pending: int = 0
    pending_largest: int = 0
    failures: dict[str, int] = {}
    application_failures: int = 0
    disks: dict[str, Churn] = {}

    @property
    def due(self) -> int:
        """Cycles whose outcome is known."""
        return self.points + self.missed

    @property
    def missed_share(self) -> float:
        """Hyper-V Replica: a cycle is missed if its log was not replicated within the interval. 0 to 1."""
        return (self.missed + self.late) / self.due if self.due else 0.0


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The interval that runs, and the newest one before it that an agent saw (Hyper-V: event 29174)."""

    current: Statistics
    previous: Statistics | None = None


class DiskChange(msgspec.Struct, frozen=True, kw_only=True):
    """What one cycle found dirty. regions: bytes by region number, for regions of `region_bytes(size)`."""

    size: int
    regions: dict[int, int] = {}

    def plus(self, other: DiskChange) -> DiskChange:
        """Of another round of the same cycle (pre-copy rounds, then the cut)."""
        both = {
            one: self.regions.get(one, 0) + other.regions.get(one, 0) for one in self.regions | other.regions
        }
        return DiskChange(size=self.size, regions=both)


class Captured(msgspec.Struct, frozen=True, kw_only=True):
    """A cycle was made. application_failed: its point was to be application-consistent and is not."""

    at: datetime
    disks: dict[str, DiskChange]
    application_failed: bool = False


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """A point is in the store. instant: what it shows. stored: bytes of its logs. frequency: the policy's."""

    at: datetime
    instant: datetime
    stored: int
    frequency: int


class Missed(msgspec.Struct, frozen=True, kw_only=True):
    """Cycles were due and not made (the machine was out of reach, the cut was given up, no worker was free)."""

    at: datetime
    cycles: int = 1


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """kind: the error's class name."""

    at: datetime
    kind: str


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that wait to be sent, after it changed."""

    at: datetime
    pending: int


Event = Captured | Committed | Missed | Failed | Waiting


def region_bytes(size: int) -> int:
    """Bytes of one region of a disk of `size` bytes: the smallest power of two of blocks that gives at most
    REGIONS of them, so that a disk that grows merges neighbours exactly."""
    region = BLOCK
    while region * REGIONS < size:
        region *= 2
    return region


def change_of(dirty: DirtyBlocks, size: int) -> DiskChange:
    """What a round found dirty, by region."""
    number = dirty.blocks.astype(np.int64) // (region_bytes(size) // BLOCK)
    sums = np.bincount(number, weights=np.bitwise_count(dirty.masks).astype(np.int64) * PAGE)
    return DiskChange(size=size, regions={int(i): int(sums[i]) for i in np.flatnonzero(sums)})


def begin(at: datetime, monitoring: Monitoring, tz: tzinfo) -> History:
    since, until = monitoring.interval(at, tz)
    return History(current=Statistics(since=since, until=until))


def rolled(history: History, at: datetime, monitoring: Monitoring, tz: tzinfo) -> History:
    """The history as at `at`: with a new interval if the running one has ended. Also for showing it."""
    if at < history.current.until:
        return history
    # A clock that went back stays in the interval that runs; its numbers are not begun anew.
    return History(current=begin(at, monitoring, tz).current, previous=history.current)


def after(history: History, event: Event, monitoring: Monitoring, tz: tzinfo) -> History:
    """The history with one more event."""
    history = rolled(history, event.at, monitoring, tz)
    return msgspec.structs.replace(history, current=_counted(history.current, event))


def _counted(now: Statistics, event: Event) -> Statistics:
    replace = msgspec.structs.replace
    match event:
        case Captured(at=at, disks=disks, application_failed=failed):
            part = _part(now, at)
            churn = now.disks | {name: _churn(now.disks.get(name), one, part) for name, one in disks.items()}
            return replace(now, disks=churn, application_failures=now.application_failures + failed)
        case Committed(at=at, instant=shown, stored=stored, frequency=frequency):
            latency = max(0.0, (at - shown).total_seconds())
            return replace(
                now,
                points=now.points + 1,
                late=now.late + (latency > frequency),
                stored=now.stored.plus(stored),
                latency=now.latency.plus(latency),
            )
        case Missed(cycles=cycles):
            return replace(now, missed=now.missed + cycles)
        case Failed(kind=kind):
            return replace(now, failures=now.failures | {kind: now.failures.get(kind, 0) + 1})
        case Waiting(pending=pending):
            return replace(now, pending=pending, pending_largest=max(now.pending_largest, pending))


def _part(now: Statistics, at: datetime) -> int:
    share = (at - now.since) / (now.until - now.since)
    return min(max(int(share * PARTS), 0), PARTS - 1)


def _churn(old: Churn | None, change: DiskChange, part: int) -> Churn:
    told = region_bytes(change.size)
    # A disk that shrank keeps its coarser regions until the interval ends.
    region = max(told, old.region if old else 0)
    regions = [0] * -(-change.size // region)
    kept: Mapping[int, int] = dict(enumerate(old.regions)) if old else {}
    for counts, width in ((kept, old.region if old else region), (change.regions, told)):
        for number, count in counts.items():
            here = number * width // region
            regions.extend([0] * (here + 1 - len(regions)))
            regions[here] += count
    parts = list(old.parts) if old else [0] * PARTS
    parts[part] += sum(change.regions.values())
    return Churn(region=region, regions=tuple(regions), parts=tuple(parts))
