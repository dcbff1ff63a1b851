"""Jobs on their way: taken in once, given to the agent whose part is next, followed, ended.

The rules that hold whatever dies meanwhile: at most one job acts on a machine (an index of the database's says so);
a part is with at most one agent (its lease grows when it is handed over); a report under another lease changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from standby import failpoints
from standby.link.messages import Order, TaskReport, TaskState, WorkReport, WorkState
from standby.link.requests import Refused
from standby.vault import planning
from standby.vault.core import Actor, Vault
from standby.vault.errors import Conflict, NotFound
from standby.vault.events import Severity, add_event
from standby.vault.jobs import KINDS, Action, JobState, after, allowed
from standby.vault.schema import Host, Job, Machine, Relationship, Task

LEASE: Final = timedelta(seconds=60)
"""For which an order is believed to be at work after its agent's last word."""

GIVEN_UP: Final = timedelta(minutes=10)
"""Of an agent's silence, after which its job has failed."""

_TAKEN_IN = failpoints.declare("vault.job.taken-in")
_GIVEN = failpoints.declare("vault.job.given")
_REPORTED = failpoints.declare("vault.job.reported")


def add(
    vault: Vault,
    session: Session,
    actor: Actor,
    kind: str,
    subject: planning.Subject,
    machine: Machine | None,
    params: planning.Params,
    *,
    once: str = "",
) -> Job:
    """A new job, not yet given to anybody. machine: None of a job about something else.

    Raises Conflict, as where another one acts on the machine.
    """
    parts = planning.parts(kind, subject, params)
    job = Job(
        id=vault.new_id(),
        kind=kind,
        state=JobState.QUEUED,
        machine=machine.id if machine else None,
        host=parts[0].host,
        subject=subject.machine,
        params=dict(params),
        parts=planning.encoded(parts),
        part=0,
        lease=0,
        exclusive=not KINDS[kind].upkeep,
        by=actor.name,
        once=once or None,
        created=vault.clock.now(),
    )
    _insert(session, job)
    for part, names in enumerate((KINDS[kind].tasks, KINDS[kind].second)):
        for ordinal, name in enumerate(names):
            session.add(Task(job=job.id, part=part, ordinal=ordinal, name=name, state=TaskState.PENDING))
    session.flush()
    _TAKEN_IN.reach()
    return job


def claim(vault: Vault, session: Session, host: Host, room: int, known: Iterable[str]) -> list[Order]:
    """What the host is to do: new parts as far as it has room, and those that it has lost.

    known: the jobs that the host told of.
    """
    now = vault.clock.now()
    told = set(known)
    mine = session.scalars(
        select(Job)
        .where(
            Job.host == host.id,
            Job.ended.is_(None),
            Job.observed.is_(False),
            Job.state.in_([JobState.QUEUED, JobState.IN_PROGRESS]),
        )
        .order_by(Job.id)
        .with_for_update(skip_locked=True)
    ).all()
    orders = []
    for job in mine:
        if job.state == JobState.QUEUED:
            if room <= 0:
                continue
            room -= 1
            job.state, job.lease, job.began = JobState.IN_PROGRESS, job.lease + 1, job.began or now
            _GIVEN.reach()
        elif job.id in told:
            continue
        job.held = now + LEASE
        orders.append(planning.order(job.id, job.lease, KINDS[job.kind].title, job.parts[job.part]))
    return orders


def report(
    vault: Vault, session: Session, host: Host, told: Sequence[WorkReport]
) -> tuple[list[str], list[str]]:
    """Take in how a host's orders stand. Returns the jobs whose end is known now, and those to give up."""
    taken, cancel = [], []
    now = vault.clock.now()
    for work in told:
        job = session.scalars(select(Job).where(Job.id == work.job).with_for_update()).one_or_none()
        ended = work.state is not WorkState.IN_PROGRESS
        if job is None or job.host != host.id or job.lease != work.lease or not _under_way(job):
            # Of a part that ended, or was given up: the host need not tell it any more.
            if ended:
                taken.append(work.job)
            else:
                cancel.append(work.job)
            continue
        over = ended and work.state is not WorkState.WAITING
        _note_tasks(session, job, work.tasks, over=over)
        job.held = now + LEASE
        job.result = {**job.result, **work.result}
        step = after(work.state, job.part, len(job.parts))
        if ended:
            taken.append(job.id)
        elif job.cancel:
            cancel.append(job.id)
        if step.part != job.part:
            _next_part(session, job, step.part)
        elif step.state is JobState.WAITING:
            job.state, job.waiting, job.held = JobState.WAITING, work.waiting, None
            add_event(
                vault,
                session,
                Severity.WARNING,
                "job-waiting",
                job.subject,
                f"{KINDS[job.kind].title} waits for somebody: {work.waiting}",
                machine=job.machine,
            )
        elif step.state.ended:
            _end(vault, session, job, step.state, work.error)
        _REPORTED.reach()
    return taken, cancel


def _under_way(job: Job) -> bool:
    return job.ended is None and job.state == JobState.IN_PROGRESS


def expire(vault: Vault, session: Session) -> list[Job]:
    """The jobs whose agents were silent for too long: all fail, but those that another host can do as well, which are
    the caller's to give away: they are queued again. Returns these."""
    now = vault.clock.now()
    lost = session.scalars(
        select(Job)
        .where(Job.ended.is_(None), Job.observed.is_(False), Job.held < now - GIVEN_UP)
        .where(Job.state == JobState.IN_PROGRESS)
        .with_for_update(skip_locked=True)
    ).all()
    given_back = []
    for job in lost:
        if KINDS[job.kind].upkeep:
            job.lease, job.state, job.held = job.lease + 1, JobState.QUEUED, None
            given_back.append(job)
            continue
        host = session.get(Host, job.host) if job.host else None
        name = host.name if host else "?"
        heard = f"{host.beat:%Y-%m-%d %H:%M:%S} UTC" if host and host.beat else "never"
        job.lease += 1
        _end(
            vault,
            session,
            job,
            JobState.FAILED,
            Refused(
                kind="Recoverable",
                subject=f"host {name}",
                cause=f"its agent has not reported since {heard}, while it did this job",
                tried=f"waiting for {GIVEN_UP.total_seconds() / 60:.0f} minutes",
                hint="see why the agent is silent; what it did meanwhile is told when it is back. Then restart the job",
            ),
        )
    return given_back


def begun(session: Session, actor: Actor, once: str) -> Job | None:
    """The job that a call of this actor with this idempotency key began."""
    return session.scalar(select(Job).where(Job.by == actor.name, Job.once == once)) if once else None


def once_only(
    vault: Vault,
    actor: Actor,
    once: str,
    same: Callable[[Session, Job], bool],
    begin: Callable[[], Job],
) -> Job:
    """The job that `begin` begins; where the idempotency key began one before, that one.

    same: whether that one is of the same call. Raises what `begin` raises, Conflict if it is not.
    """

    def before() -> Job | None:
        with vault.session() as session:
            job = begun(session, actor, once)
            if job and not same(session, job):
                raise reused(once)
            return job

    if known := before():
        return known
    try:
        return begin()
    except Conflict:
        # The same call, sent again while the first was still under way, was in its own way.
        if known := before():
            return known
        raise


def act(vault: Vault, actor: Actor, job_id: str, action: Action, *, once: str = "") -> Job:
    """Cancel, restart or continue. Returns the job, or the new one of a restart. Raises NotFound, Conflict.

    once: an idempotency key of a restart: the same call again gives the job that the first one began.
    """
    with vault.audited(actor, f"job {action}", job_id) as session:
        job = session.scalars(select(Job).where(Job.id == job_id).with_for_update()).one_or_none()
        if job is None:
            raise NotFound("there is no such job", subject=job_id, hint="`standby job list` lists them")
        kind = KINDS[job.kind]
        actor.must(kind.role, f"{action} of job {kind.title}")
        if action is Action.RESTART and (known := begun(session, actor, once)):
            if (known.kind, known.machine) != (job.kind, job.machine):
                raise reused(once)
            return known
        state = JobState(job.state)
        if action not in allowed(job.kind, state, cancelling=job.cancel):
            may = ", ".join(allowed(job.kind, state, cancelling=job.cancel)) or "nothing"
            raise Conflict(
                f"a job that is {state}{' and being cancelled' if job.cancel else ''} cannot be asked to {action}",
                subject=f"{kind.title} of {job.subject}",
                hint=f"possible now: {may}",
            )
        if action is Action.CANCEL:
            if state in (JobState.QUEUED, JobState.WAITING):
                _end(vault, session, job, JobState.CANCELLED, None)
            else:
                job.cancel = True
            return job
        if action is Action.CONTINUE:
            job.state, job.waiting = JobState.QUEUED, ""
            job.parts = planning.answered(job.parts, job.part)
            return job
        return _again(vault, session, actor, job, once)


def reused(once: str) -> Conflict:
    """An idempotency key came with two calls that differ."""
    return Conflict(
        "this idempotency key was used for another call",
        subject=once,
        hint="use a new key for each thing that is to be done once",
    )


def _again(vault: Vault, session: Session, actor: Actor, job: Job, once: str) -> Job:
    """The same once more, from the part that failed."""
    fresh = Job(
        id=vault.new_id(),
        kind=job.kind,
        state=JobState.QUEUED,
        machine=job.machine,
        host=job.host,
        subject=job.subject,
        params=job.params,
        parts=planning.again(job.parts, job.part, job.result),
        part=job.part,
        result=job.result,
        exclusive=job.exclusive,
        by=actor.name,
        once=once or None,
        created=vault.clock.now(),
    )
    _insert(session, fresh)
    for old in session.scalars(select(Task).where(Task.job == job.id).order_by(Task.part, Task.ordinal)):
        done = old.part < job.part
        session.add(
            Task(
                job=fresh.id,
                part=old.part,
                ordinal=old.ordinal,
                name=old.name,
                state=old.state if done else TaskState.PENDING,
                began=old.began if done else None,
                ended=old.ended if done else None,
            )
        )
    return fresh


def _insert(session: Session, job: Job) -> None:
    """Raises Conflict where another one acts on the machine, or the idempotency key was used."""
    try:
        with session.begin_nested():
            session.add(job)
            session.flush()
    except IntegrityError as error:
        raise Conflict(
            "another job is under way with it",
            subject=job.subject,
            hint="wait for its end, or cancel it (`standby job list` shows it)",
        ) from error


def _next_part(session: Session, job: Job, part: int) -> None:
    job.part, job.state, job.held = part, JobState.QUEUED, None
    job.host = job.parts[part]["host"]


def _end(vault: Vault, session: Session, job: Job, state: JobState, error: Refused | None) -> None:
    job.state, job.ended, job.held = state, vault.clock.now(), None
    job.error = msgspec.to_builtins(error) if error else None
    proved = job.kind == "prove" and job.result.get("verdict") == "passed"
    if (job.kind == "test-failover" or proved) and state is JobState.SUCCEEDED:
        for row in session.scalars(
            select(Relationship).where(Relationship.machine == job.machine, Relationship.ended.is_(False))
        ):
            row.drilled = job.ended
    title = KINDS[job.kind].title
    words = {JobState.SUCCEEDED: "succeeded", JobState.CANCELLED: "was cancelled"}.get(state, "failed")
    text = f"{title} {words}" + (f": {error.error()}" if error else "")
    severity = Severity.CRITICAL if state is JobState.FAILED else Severity.INFORMATION
    add_event(
        vault,
        session,
        severity,
        f"job-{state.value}",
        job.subject,
        text,
        machine=job.machine,
        host=None if job.machine else job.host,
    )


def _note_tasks(session: Session, job: Job, told: Sequence[TaskReport], *, over: bool) -> None:
    """What the report says, and what was expected beyond it: once the part is over, that does not come any more."""
    if not told:
        return
    rows = session.scalars(
        select(Task).where(Task.job == job.id, Task.part == job.part).order_by(Task.ordinal)
    ).all()
    expected = [one for one in rows if one.state == TaskState.PENDING]
    names = {one.name for one in told}
    merged: list[dict[str, Any]] = [
        {
            "name": one.name,
            "state": one.state.value,
            "began": _instant(one.began),
            "ended": _instant(one.ended),
            "progress": one.progress,
            "detail": one.detail,
        }
        for one in told
    ]
    left = TaskState.SKIPPED.value if over else TaskState.PENDING.value
    merged += [
        {"name": one.name, "state": left, "began": None, "ended": None, "progress": None, "detail": ""}
        for one in expected
        if one.name not in names
    ]
    current = [
        {key: getattr(one, key) for key in ("name", "state", "began", "ended", "progress", "detail")}
        for one in rows
    ]
    if merged == current:
        return
    session.execute(delete(Task).where(Task.job == job.id, Task.part == job.part))
    session.add_all(
        Task(job=job.id, part=job.part, ordinal=ordinal, **fields) for ordinal, fields in enumerate(merged)
    )


def _instant(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
