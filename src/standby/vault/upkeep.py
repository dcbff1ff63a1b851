"""Retention, scrubs and boot proofs of replicas, when due: by a host that takes care of the site's replicas."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from standby.replication.states import State
from standby.vault import queue
from standby.vault.core import Actor, Vault
from standby.vault.errors import Conflict
from standby.vault.machines import UNATTENDED, subject_of, tiers, upkeep_host
from standby.vault.schema import Job, Machine, PolicyRow, Relationship

RETAIN_EVERY: Final = timedelta(hours=1)

SAMPLED: Final = 0.1
"""The share of a replica's objects that each scrub reads in full; the chain and all references are always checked."""

RESTING: Final = frozenset({State.NEW, State.FENCED, State.SEALED, UNATTENDED})
"""States in which no point may go: the machine failed over or is about to, and any of them may be wanted."""


class Last(NamedTuple):
    """When such a job was begun last, None for never."""

    retention: datetime | None = None
    scrub: datetime | None = None
    prove: datetime | None = None


def due(
    now: datetime, state: str, since: datetime, last: Last, *, scrub_days: int = 0, prove_days: int = 0
) -> tuple[str, ...]:
    """The kinds of job that are due. since: when the machine was protected. Days: 0 for never. Pure."""
    if state in RESTING:
        return ()
    found = []
    if now - (last.retention or since) >= RETAIN_EVERY:
        found.append("retention")
    if scrub_days and now - (last.scrub or since) >= timedelta(days=scrub_days):
        found.append("scrub")
    if prove_days and now - (last.prove or since) >= timedelta(days=prove_days):
        found.append("prove")
    return tuple(found)


def begin_due(vault: Vault, session: Session, actor: Actor) -> int:
    """Begin what is due; returns how many jobs were begun."""
    begun = 0
    now = vault.clock.now()
    lasts: dict[str, dict[str, datetime]] = {}
    for machine_id, kind, at in session.execute(
        select(Job.machine, Job.kind, func.max(Job.created))
        .where(Job.kind.in_(("retention", "scrub", "prove")), Job.machine.is_not(None))
        .group_by(Job.machine, Job.kind)
    ):
        lasts.setdefault(str(machine_id), {})[kind] = at
    for row, policy, machine in session.execute(
        select(Relationship, PolicyRow, Machine)
        .join(PolicyRow, PolicyRow.id == Relationship.policy)
        .join(Machine, Machine.id == Relationship.machine)
        .where(~Relationship.ended, ~Relationship.superseded, Relationship.newest.is_not(None))
    ):
        known = lasts.get(row.machine, {})
        last = Last(known.get("retention"), known.get("scrub"), known.get("prove"))
        for kind in due(
            now, row.state, row.since, last, scrub_days=policy.scrub_days, prove_days=policy.prove_days
        ):
            params: dict[str, dict[str, Any]] = {
                "retention": {"keep": tiers(policy)},
                "scrub": {"fraction": SAMPLED, "seed": int(now.timestamp())},
                "prove": {},
            }
            try:
                queue.add(vault, session, actor, kind, subject_of(session, machine), machine, params[kind])
            except Conflict:
                # The last one is still under way.
                continue
            begun += 1
    return begun


def give_away(session: Session, job: Job) -> None:
    """To another host that takes care of the site's replicas, if there is one."""
    machine = session.get_one(Machine, job.machine)
    relationship = session.scalars(
        select(Relationship).where(Relationship.machine == machine.id, ~Relationship.ended).limit(1)
    ).one_or_none()
    if relationship is None:
        return
    host = upkeep_host(session, machine, relationship, but=job.host or "")
    job.host = host
    job.parts = [{**part, "host": host} for part in job.parts]
