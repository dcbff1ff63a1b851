"""Taking in what an agent reports, and answering it. One transaction a heartbeat."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from standby.link.messages import Answer, Heartbeat, PointMade, Seen, Standing, TaskReport, TaskState
from standby.replication.states import State
from standby.vault import alerts, observe, queue
from standby.vault.core import Vault
from standby.vault.events import Severity, add_event
from standby.vault.hosts import authenticate
from standby.vault.jobs import KINDS, JobState
from standby.vault.observe import Condition
from standby.vault.schema import Host, Job, Machine, Point, Relationship, Sample, Task

EVERY: Final = 5.0
BUSY: Final = 1.0
"""Seconds between heartbeats: as a rule, and while something is asked of the host."""

SAMPLED: Final = timedelta(seconds=60)
SKEW: Final = 30.0
"""Seconds of difference between the clocks from which on it is told: points carry the host's."""

OF_RELATIONSHIP: Final = frozenset({Condition.HEALTH_CRITICAL, Condition.RESYNC_REQUIRED})


def take_in(vault: Vault, token: str, beat: Heartbeat) -> Answer:
    """Raises Unauthenticated."""
    with vault.session() as session:
        host, granted = authenticate(vault, session, token)
        now = vault.clock.now()
        _host(vault, session, host, beat, now)
        machines = _machines(vault, session, host, beat, now)
        _relationships(vault, session, host, beat, machines, now)
        _points(session, host, beat.points)
        session.flush()
        taken, cancel = queue.report(vault, session, host, beat.work)
        session.flush()
        orders = queue.claim(vault, session, host, beat.room, [work.job for work in beat.work])
        busy = bool(orders or beat.work)
        return Answer(
            orders=tuple(orders),
            taken=tuple(taken),
            cancel=tuple(cancel),
            next=BUSY if busy else EVERY,
            token=granted.token if granted else "",
            token_expires=granted.expires.isoformat() if granted else "",
        )


def _host(vault: Vault, session: Session, host: Host, beat: Heartbeat, now: datetime) -> None:
    if host.silent:
        host.silent = False
        since = f" since {host.beat:%Y-%m-%d %H:%M:%S} UTC" if host.beat else ""
        add_event(
            vault,
            session,
            Severity.INFORMATION,
            "host-back",
            host.name,
            f"The agent of {host.name} reports again; it was silent{since}",
            host=host.id,
        )
        alerts.reconcile(vault, session, host.id, host.name, frozenset({Condition.HOST_SILENT}), {})
    if host.instance and host.instance != beat.instance:
        add_event(
            vault,
            session,
            Severity.INFORMATION,
            "agent-started",
            host.name,
            f"The agent of {host.name} was started again, version {beat.version}",
            host=host.id,
        )
    skew = (datetime.fromisoformat(beat.time) - now).total_seconds()
    if abs(skew) > SKEW >= abs(host.skew):
        add_event(
            vault,
            session,
            Severity.WARNING,
            "clock",
            host.name,
            f"The clock of {host.name} is {skew:+.0f} s from the vault's: its points carry its own time",
            host=host.id,
        )
    host.beat, host.instance, host.version, host.skew = now, beat.instance, beat.version, skew
    if "runs" not in beat.missing:
        runs = msgspec.to_builtins(beat.runs)
        if runs != host.runs:
            host.runs = runs


def _machines(
    vault: Vault, session: Session, host: Host, beat: Heartbeat, now: datetime
) -> dict[str, Machine]:
    """The host's machines by name, those that came from another host of its site among them."""
    here = {
        one.name: one
        # Of several of one name, the one that is there.
        for one in session.scalars(
            select(Machine).where(Machine.host == host.id).order_by(Machine.present, Machine.id)
        )
    }
    if "machines" in beat.missing:
        return here
    told = {seen.name for seen in beat.machines}
    for seen in beat.machines:
        machine = here.get(seen.name) or _moved(vault, session, host, seen, now)
        if machine is None:
            machine = Machine(
                id=vault.new_id(),
                site=host.site,
                host=host.id,
                name=seen.name,
                uuid=seen.uuid,
                present=True,
                running=seen.running,
                seen={},
                created=now,
            )
            session.add(machine)
        described = msgspec.to_builtins(seen)
        if machine.seen != described or not machine.present:
            machine.seen, machine.uuid = described, seen.uuid
            machine.present, machine.running = True, seen.running
        here[seen.name] = machine
    for name, machine in here.items():
        if name not in told and machine.present:
            machine.present = machine.running = False
    # Relationships refer to them.
    session.flush()
    return here


def _moved(vault: Vault, session: Session, host: Host, seen: Seen, now: datetime) -> Machine | None:
    """The machine, if another host of the site had it and has it no more (live migration)."""
    if not seen.uuid:
        return None
    for machine in session.scalars(
        select(Machine).where(Machine.site == host.site, Machine.uuid == seen.uuid, Machine.host != host.id)
    ):
        before = session.get(Host, machine.host)
        gone = not machine.present or (before is not None and before.silent)
        if gone or (not machine.running and seen.running):
            add_event(
                vault,
                session,
                Severity.INFORMATION,
                "machine-moved",
                seen.name,
                f"It runs on {host.name} now; it was on {before.name if before else '?'}",
                machine=machine.id,
                host=host.id,
            )
            machine.host, machine.name = host.id, seen.name
            return machine
    return None


def _relationships(
    vault: Vault,
    session: Session,
    host: Host,
    beat: Heartbeat,
    machines: dict[str, Machine],
    now: datetime,
) -> None:
    known = {
        one.told: one for one in session.scalars(select(Relationship).where(Relationship.host == host.id))
    }
    open_alerts = alerts.standing(session, [one.id for one in known.values()])
    for standing in beat.relationships:
        row = known.pop(standing.id, None)
        before = msgspec.convert(row.standing, Standing) if row and not row.ended else None
        if row is None:
            machine = _whose(vault, session, host, standing, machines, now)
            row = _new(vault, session, host, machine, standing, now)
        else:
            machine = session.get_one(Machine, row.machine)
        _update(row, machine, standing, now)
        if before is None or before.state != standing.state:
            session.flush()
            _supersede(session, machine)
        for one in observe.happened(before, standing):
            add_event(
                vault,
                session,
                one.severity,
                one.kind,
                machine.name,
                one.text,
                machine=machine.id,
                host=host.id,
            )
        _observed(vault, session, machine, host, standing, before)
        conditions = observe.conditions(standing)
        alerts.reconcile(vault, session, row.id, machine.name, OF_RELATIONSHIP, conditions, open_alerts)
        _sample(session, row, standing, now)
    for row in known.values():
        if not row.ended:
            row.ended = True
            alerts.reconcile(vault, session, row.id, "", OF_RELATIONSHIP, {})
            session.flush()
            _supersede(session, session.get_one(Machine, row.machine))


def _whose(
    vault: Vault,
    session: Session,
    host: Host,
    standing: Standing,
    machines: dict[str, Machine],
    now: datetime,
) -> Machine:
    """The machine of a relationship that is new to the vault.

    Whoever continues a replica has its machine: after a failover and a reverse replication it is the same one, here.
    """
    there = machines.get(standing.machine)
    before = session.scalars(
        select(Relationship)
        .where(Relationship.replica_id == standing.replica_id)
        .order_by(Relationship.since.desc())
        .limit(1)
    ).one_or_none()
    if before is None or before.host == host.id:
        return there or _unseen(vault, session, host, standing, machines, now)
    machine = session.get_one(Machine, before.machine)
    if there is not None and there.id != machine.id:
        # What the inventory took for another machine is this one.
        machine.seen, machine.running = there.seen, there.running
        there.present = there.running = False
        machines[standing.machine] = machine
    add_event(
        vault,
        session,
        Severity.INFORMATION,
        "machine-moved",
        machine.name,
        f"{host.name} continues its replica",
        machine=machine.id,
        host=host.id,
    )
    machine.host, machine.present = host.id, True
    session.flush()
    return machine


def _supersede(session: Session, machine: Machine) -> None:
    """Of several agents that tell of the machine, those that go on with it stand for it."""
    rows = session.scalars(
        select(Relationship)
        .where(Relationship.machine == machine.id, Relationship.ended.is_(False))
        .order_by(Relationship.since)
    ).all()
    going_on = [one for one in rows if one.state not in (State.FENCED, State.SEALED)] or rows
    for one in rows:
        one.superseded = one is not going_on[-1]


def _unseen(
    vault: Vault,
    session: Session,
    host: Host,
    standing: Standing,
    machines: dict[str, Machine],
    now: datetime,
) -> Machine:
    """A machine that is protected and not there now: it is off, or gone."""
    machine = Machine(
        id=vault.new_id(),
        site=host.site,
        host=host.id,
        name=standing.machine,
        uuid="",
        present=False,
        running=False,
        seen=msgspec.to_builtins(Seen(name=standing.machine, running=False)),
        created=now,
    )
    session.add(machine)
    session.flush()
    machines[standing.machine] = machine
    return machine


def _new(
    vault: Vault, session: Session, host: Host, machine: Machine, standing: Standing, now: datetime
) -> Relationship:
    """policy: that of the job which protected it, if one did."""
    job = session.scalars(
        select(Job)
        .where(Job.machine == machine.id, Job.kind == "enable-protection")
        .order_by(Job.id.desc())
        .limit(1)
    ).one_or_none()
    params: Mapping[str, Any] = job.params if job else {}
    row = Relationship(
        id=vault.new_id(),
        told=standing.id,
        host=host.id,
        policy=params.get("policy_id"),
        revision=params.get("policy_revision", 0),
        since=now,
        drilled=None,
        superseded=False,
    )
    session.add(row)
    return row


def _update(row: Relationship, machine: Machine, standing: Standing, now: datetime) -> None:
    row.machine = machine.id
    row.store, row.replica, row.replica_id = standing.store, standing.replica, standing.replica_id
    row.state, row.level = standing.state, int(observe.level_of(standing))
    row.rpo, row.queued_bytes = standing.rpo, standing.queued_bytes
    row.newest = datetime.fromisoformat(standing.newest_at) if standing.newest_at else None
    row.standing, row.reported, row.ended = msgspec.to_builtins(standing), now, False


def _observed(
    vault: Vault,
    session: Session,
    machine: Machine,
    host: Host,
    standing: Standing,
    before: Standing | None,
) -> None:
    wanted = observe.observed(standing)
    # Most heartbeats find nothing of the kind before and after: no look at the table for them.
    if not any(one.open for one in wanted) and not (
        before and any(one.open for one in observe.observed(before))
    ):
        return
    under_way = {
        job.kind: job
        for job in session.scalars(
            select(Job).where(Job.machine == machine.id, Job.observed, Job.ended.is_(None))
        )
    }
    now = vault.clock.now()
    for one in wanted:
        job = under_way.get(one.kind)
        if one.open and job is None:
            job = Job(
                id=vault.new_id(),
                kind=one.kind,
                state=JobState.IN_PROGRESS,
                machine=machine.id,
                host=host.id,
                subject=machine.name,
                observed=True,
                exclusive=False,
                by=f"agent of {host.name}",
                created=now,
                began=now,
            )
            session.add(job)
            session.flush()
        if job is None:
            continue
        if one.open:
            _follow_tasks(session, job, one.tasks)
        else:
            done = observe.finished(one.kind, standing)
            job.state, job.ended = (JobState.SUCCEEDED if done else JobState.CANCELLED), now
            end = TaskState.SUCCEEDED if done else TaskState.SKIPPED
            for row in session.scalars(
                select(Task).where(Task.job == job.id, Task.state != TaskState.SUCCEEDED)
            ):
                row.state = end.value
            add_event(
                vault,
                session,
                Severity.INFORMATION,
                f"job-{job.state}",
                machine.name,
                f"{KINDS[job.kind].title} {'succeeded' if done else 'was given up'}",
                machine=machine.id,
            )


def _follow_tasks(session: Session, job: Job, told: tuple[TaskReport, ...]) -> None:
    rows = {one.name: one for one in session.scalars(select(Task).where(Task.job == job.id))}
    for one in told:
        row = rows.get(one.name)
        if row is None:
            row = rows[one.name] = Task(
                job=job.id, part=0, ordinal=len(rows), name=one.name, detail=one.detail
            )
            session.add(row)
        if row.state != one.state.value or row.progress != one.progress:
            row.state, row.progress, row.detail = one.state.value, one.progress, one.detail


def _sample(session: Session, row: Relationship, standing: Standing, now: datetime) -> None:
    last = row.sampled
    if last is not None and now - last < SAMPLED:
        return
    row.sampled = now
    interval = standing.interval
    session.add(
        Sample(
            relationship=row.id,
            at=now,
            rpo=standing.rpo,
            queued_bytes=standing.queued_bytes,
            stored=interval.stored_average if interval else 0,
            churn=sum(interval.churn.values()) if interval else 0,
            latency=interval.latency_average if interval else 0.0,
        )
    )


def _points(session: Session, host: Host, told: tuple[PointMade, ...]) -> None:
    """Told again after an answer that was lost, they are there already."""
    if not told:
        return
    ours = {
        row[0]: row[1]
        for row in session.execute(
            select(Relationship.told, Relationship.id).where(Relationship.host == host.id)
        )
    }
    wanted = {(ours[one.relationship], one.seq): one for one in told if one.relationship in ours}
    there = {
        (one.relationship, one.seq)
        for one in session.scalars(
            select(Point).where(
                Point.relationship.in_({key[0] for key in wanted}), Point.seq.in_({key[1] for key in wanted})
            )
        )
    }
    session.add_all(
        Point(
            relationship=key[0],
            seq=one.seq,
            at=datetime.fromisoformat(one.at).astimezone(UTC),
            consistency=one.consistency,
            stored=one.stored,
        )
        for key, one in wanted.items()
        if key not in there
    )
