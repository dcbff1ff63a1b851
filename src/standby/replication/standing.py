"""How a relationship stands: its health, from what its agent's books say. For people, programs and the vault."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, tzinfo

from standby.replica import suspicion
from standby.replication import health, resync, statistics
from standby.replication.chronicle import Chronicle
from standby.replication.entries import Queue
from standby.replication.followers import Follower, Stage
from standby.replication.forecast import Backlog, Room, backlog, room
from standby.replication.health import Compared, Facts, Health, Problem
from standby.replication.relationship import DiskBook, Relationship, Trouble
from standby.replication.room import begins_at
from standby.replication.states import State


def health_of(
    relationship: Relationship,
    queue: Queue,
    found: Chronicle,
    now: datetime,
    tz: tzinfo,
    *,
    agent: bool,
    followers: Sequence[Follower] = (),
) -> Health:
    """agent: whether one is at work on its books. followers: its further targets. Pure."""
    told = facts(relationship, queue, found, now, tz, agent=agent, followers=followers)
    return health.health(told, now, tz)


def facts(
    relationship: Relationship,
    queue: Queue,
    found: Chronicle,
    now: datetime,
    tz: tzinfo,
    *,
    agent: bool,
    followers: Sequence[Follower] = (),
) -> Facts:
    """What health is computed from. Pure."""
    policy = relationship.policy
    scanned = [disk for disk in relationship.disks if disk.scan]
    total = sum(disk.size for disk in scanned)
    opens = resync_opens(relationship, now, tz)
    forecasts: tuple[Backlog | Room, ...] = (
        *(
            backlog(disk.id, samples, disk.size, policy.backlog_percent)
            for disk in relationship.disks
            if disk.size and (samples := found.queued.get(disk.id))
        ),
        *(room(path, samples, begins_at(policy)) for path, samples in found.free.items() if samples),
    )
    return Facts(
        state=State.PROTECTED if relationship.status.state is State.DELTA else relationship.status.state,
        before_pause=relationship.status.before_pause,
        newest_point=datetime.fromisoformat(relationship.newest) if relationship.newest else None,
        last_sync=datetime.fromisoformat(relationship.synced) if relationship.synced else None,
        statistics=statistics.rolled(found.history, now, policy.monitoring, tz).current,
        problems=(
            *(_problem(one) for one in (relationship.send, relationship.capture) if one),
            *(_problem(one.trouble, f"Target {one.store}: ") for one in followers if one.trouble),
        ),
        targets=tuple(told for one in followers if (told := _standing(one, now))),
        disks={disk.id: _compared(disk, opens) for disk in scanned},
        scanned=sum(disk.scanned for disk in scanned) / total if total else None,
        forecasts=tuple(one.sentence(now, tz) for one in forecasts if one.presses(now)),
        suspicious=suspicious(found),
        agent=agent,
    )


def suspicious(found: Chronicle) -> str:
    """A sentence if the newest points look as if somebody encrypted the disks, by their records alone. Pure."""
    flagged = suspicion.newest_flagged(found.changes)
    if flagged is None:
        return ""
    count, why = flagged
    which = f"newest {count} points look" if count > 1 else "newest point looks"
    return f"The {which} as if the disks were being encrypted, from point {why.change.seq} on: {why}."


def resync_opens(relationship: Relationship, now: datetime, tz: tzinfo) -> datetime | None:
    """When the disks that wait may be compared: all of them, for a point needs all. None: when somebody asks."""
    if relationship.resync == "now":
        return now
    if relationship.resync == "cancelled":
        return None
    window = relationship.policy.resync
    openings = [
        resync.opens(resync.Reason(disk.scan), window, now, tz)
        for disk in relationship.disks
        if disk.scanning
    ]
    if any(one is None for one in openings):
        return None
    return max((one for one in openings if one is not None), default=now)


def _compared(disk: DiskBook, opens: datetime | None) -> Compared:
    told = resync.EXPLAINED[resync.Reason(disk.scan)]
    return Compared(why=told.why, opens=opens, action=told.operator)


def _standing(follower: Follower, now: datetime) -> str:
    """What there is to say of a further target but its trouble; "" if it is well."""
    if follower.stage in (Stage.BEHIND, Stage.JOINING):
        return (
            f"Target {follower.store} is being compared with the first one, as {follower.why or 'it joins'}."
        )
    if (
        follower.newest
        and follower.queued
        and now - datetime.fromisoformat(follower.newest) >= health.LAST_SYNC
    ):
        return (
            f"Target {follower.store}: its newest point is of {follower.newest[:19]}, {follower.queued} wait."
        )
    return ""


def _problem(trouble: Trouble, where: str = "") -> Problem:
    retry_at = datetime.fromtimestamp(trouble.retry_at, UTC) if trouble.retry_at is not None else None
    since = datetime.fromtimestamp(trouble.first, UTC)
    return Problem(text=f"{where}{trouble.error}", since=since, failures=trouble.failures, retry_at=retry_at)
