"""The whole at one look: health, worst recovery points, jobs, what waits, what is overdue."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Select, func, or_, select
from sqlalchemy.orm import Session

from standby.replication.health import Level
from standby.vault.core import Vault
from standby.vault.jobs import JobState
from standby.vault.schema import Alert, Host, Job, Machine, PolicyRow, Relationship, Site, Store, Task


class Overdue(NamedTuple):
    """A machine whose last successful test failover is too long ago, or that never had one."""

    machine: Machine
    due: datetime


class Worst(NamedTuple):
    machine: Machine
    relationship: Relationship


class Overview(NamedTuple):
    """levels: protected machines by health level. unprotected: machines that are there and not protected.
    jobs: by state; of those that have ended, the last 24 hours'. worst, overdue, alerts: the first of them; overdues,
    open_alerts: how many there are."""

    levels: dict[Level, int]
    unprotected: int
    hosts: int
    silent: int
    sites: int
    stores: int
    policies: int
    jobs: dict[JobState, int]
    backlog: int
    worst: Sequence[Worst]
    overdue: Sequence[Overdue]
    alerts: Sequence[Alert]
    overdues: int
    open_alerts: int


def overview(vault: Vault, *, most: int = 10) -> Overview:
    now = vault.clock.now()
    with vault.session() as session:
        levels = dict.fromkeys(Level, 0)
        for level, count in session.execute(
            select(Relationship.level, func.count())
            .where(~Relationship.ended, ~Relationship.superseded)
            .group_by(Relationship.level)
        ):
            levels[Level(level)] = count
        counts = _counts(session)
        jobs = dict.fromkeys(JobState, 0)
        for state, count in session.execute(
            select(Job.state, func.count())
            .where(Job.ended.is_(None) | (Job.ended > now - timedelta(days=1)))
            .group_by(Job.state)
        ):
            jobs[JobState(state)] = count
        worst = session.execute(
            select(Machine, Relationship)
            .join(Relationship, Relationship.machine == Machine.id)
            .where(~Relationship.ended, ~Relationship.superseded)
            # By the instant: what a silent agent reported last gets older all the same.
            .order_by(
                Relationship.newest.asc().nulls_last(), Relationship.rpo.desc().nulls_last(), Machine.name
            )
            .limit(most)
        ).all()
        late = overdue(session, now)
        return Overview(
            levels=levels,
            jobs=jobs,
            **counts,
            worst=[Worst(row[0], row[1]) for row in worst],
            overdue=late[:most],
            alerts=list(
                session.scalars(
                    select(Alert).where(Alert.cleared.is_(None)).order_by(Alert.id.desc()).limit(50)
                )
            ),
            overdues=len(late),
        )


def overdue(session: Session, now: datetime) -> list[Overdue]:
    """Most overdue first."""
    days: dict[str, int] = {
        row[0]: row[1]
        for row in session.execute(select(PolicyRow.id, PolicyRow.drill_days).where(PolicyRow.drill_days > 0))
    }
    last = func.coalesce(Relationship.drilled, Relationship.since)
    # Only those that are late are fetched: most machines of most vaults are not.
    late = [
        (Relationship.policy == policy) & (last < now - timedelta(days=many)) for policy, many in days.items()
    ]
    if not late:
        return []
    rows = session.execute(
        select(Machine, Relationship)
        .join(Relationship, Relationship.machine == Machine.id)
        .where(~Relationship.ended, ~Relationship.superseded, or_(*late))
    )
    found = [
        Overdue(machine, (one.drilled or one.since) + timedelta(days=days[one.policy or ""]))
        for machine, one in rows
    ]
    return sorted(found, key=lambda one: one.due)


class JobDetail(NamedTuple):
    job: Job
    tasks: Sequence[Task]


def jobs(
    vault: Vault,
    *,
    state: str = "",
    machine: str = "",
    kind: str = "",
    before: str = "",
    limit: int = 50,
) -> Sequence[Job]:
    """Newest first; before: the id of the last of the page before."""
    with vault.session() as session:
        query = select(Job)
        if state:
            query = query.where(Job.state == state)
        if machine:
            query = query.where(Job.machine == machine)
        if kind:
            query = query.where(Job.kind == kind)
        if before:
            query = query.where(Job.id < before)
        return list(session.scalars(query.order_by(Job.id.desc()).limit(max(1, min(limit, 500)))))


def job(vault: Vault, job_id: str) -> JobDetail | None:
    with vault.session() as session:
        found = session.get(Job, job_id)
        if found is None:
            return None
        tasks = session.scalars(select(Task).where(Task.job == job_id).order_by(Task.part, Task.ordinal))
        return JobDetail(found, list(tasks))


def _counts(session: Session) -> dict[str, int]:
    """Of an `Overview`, what is one number each: in one statement."""
    stands = ~Relationship.ended & ~Relationship.superseded
    unprotected = (
        select(func.count())
        .select_from(Machine)
        .outerjoin(Relationship, (Relationship.machine == Machine.id) & stands)
        .where(Machine.present, Relationship.id.is_(None))
    )
    numbers = {
        "unprotected": unprotected,
        "hosts": _count(Host).where(~Host.revoked),
        "silent": _count(Host).where(Host.silent, ~Host.revoked),
        "sites": _count(Site),
        "stores": _count(Store),
        "policies": _count(PolicyRow),
        "open_alerts": _count(Alert).where(Alert.cleared.is_(None)),
        "backlog": select(func.coalesce(func.sum(Relationship.queued_bytes), 0)).where(stands),
    }
    row = session.execute(select(*(one.scalar_subquery() for one in numbers.values()))).one()
    return {name: int(value) for name, value in zip(numbers, row, strict=True)}


def _count(table: type) -> Select[int]:
    return select(func.count()).select_from(table)
