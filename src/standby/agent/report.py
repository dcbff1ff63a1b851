"""How a host's relationships stand, from its agent's books alone: for its command line, its metrics and its vault."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from standby.link.messages import DiskStanding, Interval, PointMade, Reason, Standing
from standby.replication import chronicle, resync, statistics
from standby.replication.books import Books
from standby.replication.chronicle import Chronicle
from standby.replication.entries import Queue
from standby.replication.followers import Followers
from standby.replication.health import Health
from standby.replication.hours import host_zone
from standby.replication.made import Made
from standby.replication.relationship import Relationship
from standby.replication.standing import health_of
from standby.replication.statistics import Statistics


class Look(NamedTuple):
    """A relationship at one instant. interval: the monitoring interval so far."""

    relationship: Relationship
    queue: Queue
    health: Health
    interval: Statistics


class Looking:
    """Looks again and again at the same books; what was not written meanwhile is not read anew. One thread."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._followers = Followers(books)
        self._chronicles: dict[str, tuple[bytes, Chronicle]] = {}

    def all(self, *, agent: bool) -> list[Look]:
        return [self.at(one, agent=agent) for one in self._books.relationships()]

    def at(self, relationship: Relationship, *, agent: bool) -> Look:
        """agent: whether one is at work on these books."""
        tz, now = host_zone(), datetime.now(UTC)
        queue = self._books.queued(relationship.id)
        found = self._chronicle(relationship, now)
        followers = self._followers.of(relationship.id)
        health = health_of(relationship, queue, found, now, tz, agent=agent, followers=followers)
        interval = statistics.rolled(found.history, now, relationship.policy.monitoring, tz).current
        return Look(relationship, queue, health, interval)

    def _chronicle(self, relationship: Relationship, now: datetime) -> Chronicle:
        body = self._books.statistics(relationship.id)
        known = self._chronicles.get(relationship.id)
        if known is None or known[0] != body:
            known = body, chronicle.decoded(body, relationship, now, host_zone())
            self._chronicles[relationship.id] = known
        return known[1]


def standing(look: Look) -> Standing:
    """As its vault is told."""
    relationship, queue, health, past = look
    trouble = relationship.send or relationship.capture
    before = relationship.status.before_pause
    return Standing(
        id=relationship.id,
        machine=relationship.machine,
        store=relationship.store,
        replica=relationship.replica,
        replica_id=str(relationship.replica_id),
        state=relationship.status.state.value,
        policy=relationship.policy,
        before_pause=before.value if before else "",
        level=str(health.level),
        reasons=tuple(Reason(level=str(one.level), text=one.text) for one in health.reasons),
        rpo=health.rpo,
        newest_at=health.newest_point.isoformat() if health.newest_point else "",
        queued=queue.length,
        queued_bytes=sum(queue.bytes.values()),
        error=relationship.error,
        error_kind=trouble.kind if trouble else "",
        failures=trouble.failures if trouble else 0,
        retry_at=retry_at(relationship),
        encrypted=bool(relationship.wrapped),
        excluded=relationship.excluded,
        disks=tuple(
            DiskStanding(id=disk.id, size=disk.size, scan=scan_told(disk.scan), scanned=disk.scanned)
            for disk in relationship.disks
        ),
        interval=Interval(
            since=past.since.isoformat(),
            points=past.points,
            missed=past.missed,
            late=past.late,
            stored_average=round(past.stored.average),
            stored_largest=round(past.stored.largest),
            latency_average=past.latency.average,
            latency_largest=past.latency.largest,
            churn={disk: churn.total for disk, churn in past.disks.items()},
        ),
    )


def retry_at(relationship: Relationship) -> str:
    """When what failed is tried again; "" if nothing is."""
    trouble = relationship.send or relationship.capture
    if trouble is None or trouble.retry_at is None:
        return ""
    return datetime.fromtimestamp(trouble.retry_at, UTC).isoformat()


def scan_told(reason: str) -> str:
    """Why a disk is compared, as a clause; "" if it is not."""
    return resync.EXPLAINED[resync.Reason(reason)].why if reason else ""


def point_made(point: Made) -> PointMade:
    return PointMade(
        relationship=point.relationship,
        seq=point.seq,
        at=point.at,
        consistency=point.consistency,
        stored=point.stored,
    )
