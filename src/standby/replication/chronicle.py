"""What a relationship did: kept in its books for its health, its statistics and forecasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, tzinfo
from typing import Final

import msgspec

from standby.clock import Clock
from standby.errors import StandbyError
from standby.hypervisor.base import Consistency
from standby.replica import suspicion
from standby.replica.documents import Record
from standby.replica.suspicion import Change
from standby.replication import statistics
from standby.replication.books import Books
from standby.replication.entries import Queue
from standby.replication.forecast import Sample, sampled
from standby.replication.relationship import Relationship
from standby.replication.room import Volume, begins_at
from standby.replication.source import CycleReport
from standby.replication.statistics import Captured, Committed, Failed, History, Missed, Waiting

KEPT_EVERY: Final = 60.0
"""Seconds after which what was counted is written down. A kill costs so much of the statistics, nothing else."""


class Chronicle(msgspec.Struct, frozen=True, kw_only=True):
    """cut: seconds that the last cut was open. queued: bytes of each disk's logs that waited, after each cycle
    and commit. free: bytes that were free on the volumes of logs, after these and each missed cycle, by the
    directory of the first disk there. changes: of the newest points, oldest first, as far back as one is compared with.
    """

    history: History
    cut: float | None = None
    queued: Mapping[str, tuple[Sample, ...]] = {}
    changes: tuple[Change, ...] = ()
    free: Mapping[str, tuple[Sample, ...]] = {}


def read(books: Books, relationship: Relationship, now: datetime, tz: tzinfo) -> Chronicle:
    """What the books have; an empty one if there is none yet."""
    return decoded(books.statistics(relationship.id), relationship, now, tz)


def decoded(body: bytes, relationship: Relationship, now: datetime, tz: tzinfo) -> Chronicle:
    """What `Books.statistics` gave; an empty one for b""."""
    if not body:
        return Chronicle(history=statistics.begin(now, relationship.policy.monitoring, tz))
    return msgspec.json.decode(body, type=Chronicle)


class Chronicler:
    """Writes the chronicle of one relationship. Called by the engine's two threads, one call at a time."""

    def __init__(
        self,
        books: Books,
        relationship: str,
        volumes: Callable[[], Mapping[str, Volume]],
        clock: Clock,
        tz: tzinfo,
    ) -> None:
        """volumes: where each disk's logs lie, as far as it is known."""
        self._books = books
        self._id = relationship
        self._volumes = volumes
        self._clock = clock
        self._tz = tz
        self._chronicle = read(books, books.get(relationship), clock.now(), tz)
        self._kept = float("-inf")

    @property
    def last_cut(self) -> float | None:
        return self._chronicle.cut

    def captured(self, relationship: Relationship, report: CycleReport, wanted: Consistency) -> None:
        failed = wanted is Consistency.APPLICATION and report.entry.consistency != wanted.value
        self._count(
            relationship, Captured(at=self._clock.now(), disks=dict(report.churn), application_failed=failed)
        )
        if report.window:
            self._chronicle = msgspec.structs.replace(self._chronicle, cut=report.window)
        self._waiting(relationship)

    def committed(self, relationship: Relationship, record: Record) -> None:
        now = self._clock.now()
        if record.is_point:
            instant = datetime.fromisoformat(record.at)
            changes = (*self._chronicle.changes, Change.of(record))[-suspicion.COMPARED :]
            self._chronicle = msgspec.structs.replace(self._chronicle, changes=changes)
            stored = sum(log.size for disk in record.disks for log in disk.logs)
            self._count(
                relationship,
                Committed(at=now, instant=instant, stored=stored, frequency=relationship.policy.frequency),
            )
        self._waiting(relationship)
        self._keep_if_due()

    def missed(self, relationship: Relationship, cycles: int) -> None:
        if cycles:
            now = self._clock.now()
            self._count(relationship, Missed(at=now, cycles=cycles))
            if self._look_at_volumes(relationship, now):
                # Why points are missed is not told a minute late.
                self.keep()
            self._keep_if_due()

    def failed(self, relationship: Relationship, error: StandbyError) -> None:
        self._count(relationship, Failed(at=self._clock.now(), kind=type(error).__name__))

    def keep(self) -> None:
        """Write it down. Raises BooksUnwritable."""
        self._books.set_statistics(self._id, msgspec.json.encode(self._chronicle))
        self._kept = self._clock.monotonic()

    def _keep_if_due(self) -> None:
        if self._clock.monotonic() - self._kept >= KEPT_EVERY:
            self.keep()

    def _waiting(self, relationship: Relationship) -> None:
        queue = self._books.queued(relationship.id)
        now = self._clock.now()
        self._count(relationship, Waiting(at=now, pending=sum(queue.bytes.values())))
        self._chronicle = msgspec.structs.replace(
            self._chronicle, queued=_sampled(self._chronicle, queue, now)
        )
        self._look_at_volumes(relationship, now)

    def _look_at_volumes(self, relationship: Relationship, now: datetime) -> bool:
        """Whether one has got too full for another log since it was looked at last, or has room again."""
        before, after = self._chronicle.free, _free(self._chronicle, self._volumes(), now)
        self._chronicle = msgspec.structs.replace(self._chronicle, free=after)
        least = begins_at(relationship.policy)
        return {path for path, samples in before.items() if samples[-1].amount < least} != {
            path for path, samples in after.items() if samples[-1].amount < least
        }

    def _count(self, relationship: Relationship, event: statistics.Event) -> None:
        history = statistics.after(self._chronicle.history, event, relationship.policy.monitoring, self._tz)
        self._chronicle = msgspec.structs.replace(self._chronicle, history=history)


def _sampled(chronicle: Chronicle, queue: Queue, now: datetime) -> dict[str, tuple[Sample, ...]]:
    """Every disk's samples with one more; those of disks that have had nothing queued throughout go."""
    disks = chronicle.queued.keys() | queue.bytes.keys()
    grown = {
        disk: sampled(chronicle.queued.get(disk, ()), Sample(now, queue.bytes.get(disk, 0))) for disk in disks
    }
    return {disk: samples for disk, samples in grown.items() if any(one.amount for one in samples)}


def _free(
    chronicle: Chronicle, volumes: Mapping[str, Volume], now: datetime
) -> Mapping[str, tuple[Sample, ...]]:
    """Every volume's samples with one more; volumes on which no log lies any more go."""
    if not volumes:
        return chronicle.free
    by_device: dict[int, Volume] = {}
    for disk in sorted(volumes):
        by_device.setdefault(volumes[disk].device, volumes[disk])
    return {
        one.path: sampled(chronicle.free.get(one.path, ()), Sample(now, one.free))
        for one in by_device.values()
    }
