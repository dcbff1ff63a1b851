"""What hangs on what an administrator set up, and how far jobs are: for lists that tell it beside each line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import QueryableAttribute

from standby.link.messages import TaskState
from standby.vault.core import Actor, Vault
from standby.vault.jobs import Role
from standby.vault.schema import Alert, Channel, Delivery, Job, Machine, Relationship, Task, User


class Usage(NamedTuple):
    """Counts by id. machines: that are there, by host. protected: by the host that replicates them. stores: replicas
    by the store's address. policies: machines by policy."""

    machines: Mapping[str, int]
    protected: Mapping[str, int]
    stores: Mapping[str, int]
    policies: Mapping[str, int]


class Progress(NamedTuple):
    """Of a job's tasks. name: of the one under way, "" if none is; share: how far that is, 0 to 1, if it tells."""

    done: int
    total: int
    name: str
    share: float | None


def usage(vault: Vault) -> Usage:
    with vault.session() as session:

        def counts(of: QueryableAttribute[Any], *where: ColumnElement[bool]) -> dict[str, int]:
            rows = session.execute(select(of, func.count()).where(of.is_not(None), *where).group_by(of))
            return {row[0]: row[1] for row in rows}

        standing = ~Relationship.ended & ~Relationship.superseded
        return Usage(
            counts(Machine.host, Machine.present.is_(True)),
            counts(Relationship.host, standing),
            counts(Relationship.store, standing),
            counts(Relationship.policy, standing),
        )


def progress(vault: Vault, jobs: Sequence[Job]) -> Mapping[str, Progress]:
    """By the job's id; of those that have tasks."""
    with vault.session() as session:
        tasks = session.scalars(
            select(Task).where(Task.job.in_([job.id for job in jobs])).order_by(Task.part, Task.ordinal)
        ).all()
    by_job: dict[str, list[Task]] = {}
    for task in tasks:
        by_job.setdefault(task.job, []).append(task)
    found = {}
    for job, mine in by_job.items():
        now = next((one for one in mine if one.state == TaskState.IN_PROGRESS), None)
        done = sum(one.state in (TaskState.SUCCEEDED, TaskState.SKIPPED) for one in mine)
        found[job] = Progress(done, len(mine), now.name if now else "", now.progress if now else None)
    return found


def undelivered(vault: Vault, actor: Actor) -> Mapping[str, str]:
    """Why a channel's newest delivery did not arrive, by the channel's id; only of those. Raises Forbidden."""
    actor.must(Role.ADMINISTRATOR, "channels of alerts")
    with vault.session() as session:
        newest = (
            select(func.max(Delivery.id)).where(Delivery.attempts > 0).group_by(Delivery.channel).subquery()
        )
        rows = session.execute(
            select(Channel.id, Delivery.error)
            .join(Delivery, Delivery.channel == Channel.id)
            .where(Delivery.id.in_(select(newest)), Delivery.error != "")
        ).all()
    return {row[0]: row[1] for row in rows}


def account(vault: Vault, actor: Actor) -> User | None:
    """The actor's own row; None of one that is no user."""
    with vault.session() as session:
        return session.get(User, actor.user) if actor.user else None


def open_alerts(vault: Vault) -> int:
    """Alerts that stand and that nobody is at yet."""
    with vault.session() as session:
        return (
            session.scalar(
                select(func.count())
                .select_from(Alert)
                .where(Alert.cleared.is_(None), Alert.acknowledged.is_(None))
            )
            or 0
        )
