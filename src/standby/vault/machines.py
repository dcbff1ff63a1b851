"""Machines: what is shown of them, and the jobs that act on them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Select, func, or_, select
from sqlalchemy.orm import Session

from standby.errors import InvalidRequest
from standby.link.messages import RunStanding, Seen, Standing
from standby.vault import planning, queue
from standby.vault.core import Actor, Vault
from standby.vault.errors import Conflict, NotFound
from standby.vault.jobs import KINDS, Action, JobState, Kind, allowed
from standby.vault.schema import (
    Event,
    Host,
    Job,
    Machine,
    Point,
    PolicyRow,
    Relationship,
    Sample,
    Site,
    Store,
)

T = TypeVar("T")

MOST: Final = 500
"""Of one page of a list."""


class Row(NamedTuple):
    """A machine in a list. relationship: None of one that is not protected."""

    machine: Machine
    host: Host
    relationship: Relationship | None
    job: Job | None


class Page(NamedTuple, Generic[T]):
    """total: of all pages. next: the offset of the next page, None on the last."""

    rows: Sequence[T]
    total: int
    next: int | None


class Detail(NamedTuple):
    """Everything of one machine. runs: its recovered copies, by host. possible: jobs that may be begun now."""

    machine: Machine
    host: Host
    site: Site
    seen: Seen
    relationship: Relationship | None
    standing: Standing | None
    policy: PolicyRow | None
    runs: tuple[tuple[Host, RunStanding], ...]
    job: Job | None
    possible: tuple[str, ...]


UNATTENDED: Final = "unattended"
"""The state of a replica that no agent replicates into (`vault.rebuild`)."""

SORTS: Final = ("name", "health", "rpo", "host", "state")


def find_machine(session: Session, key: str) -> Machine:
    """By id, or by name where one only has it. Raises NotFound, Conflict."""
    if machine := session.get(Machine, key):
        return machine
    named = session.scalars(
        select(Machine).where(
            Machine.name == key,
            or_(Machine.present, Machine.id.in_(select(Relationship.machine).where(~Relationship.ended))),
        )
    ).all()
    if not named:
        raise NotFound("there is no such machine", subject=key, hint="`standby vm list` lists them")
    if len(named) > 1:
        raise Conflict(
            f"{len(named)} machines have this name",
            subject=key,
            hint=f"give its id: {', '.join(m.id for m in named)}",
        )
    return named[0]


def listed(
    vault: Vault,
    *,
    search: str = "",
    level: int | None = None,
    state: str = "",
    site: str = "",
    host: str = "",
    protected: bool | None = None,
    sort: str = "name",
    descending: bool = False,
    offset: int = 0,
    limit: int = 100,
) -> Page[Row]:
    """sort: one of SORTS; health and rpo put the worst first unless `descending` turns that round."""
    if sort not in SORTS:
        raise InvalidRequest(
            f"machines are not sorted by {sort!r}", subject="sort", hint=f"choose {', '.join(SORTS)}"
        )
    with vault.session() as session:
        query: Select[Machine, Host, Relationship] = (
            select(Machine, Host, Relationship)
            .join(Host, Machine.host == Host.id)
            .outerjoin(
                Relationship,
                (Relationship.machine == Machine.id) & ~Relationship.ended & ~Relationship.superseded,
            )
            .where(or_(Machine.present, Relationship.id.is_not(None)))
        )
        if search:
            query = query.where(Machine.name.icontains(search, autoescape=True))
        if level is not None:
            query = query.where(Relationship.level == level)
        if state:
            query = query.where(Relationship.state == state)
        if site:
            query = query.where(Machine.site == site)
        if host:
            query = query.where(Machine.host == host)
        if protected is not None:
            query = query.where(Relationship.id.is_not(None) if protected else Relationship.id.is_(None))
        total = session.scalar(select(func.count()).select_from(query.subquery())) or 0
        limit = max(1, min(limit, MOST))
        rows = session.execute(
            query.order_by(*_order(sort, descending), Machine.name, Machine.id).offset(offset).limit(limit)
        ).all()
        jobs = _active(session, [row[0].id for row in rows])
        page = [Row(row[0], row[1], row[2], jobs.get(row[0].id)) for row in rows]
        end = offset + len(page)
        return Page(page, total, end if end < total else None)


def shown(vault: Vault, key: str) -> Detail:
    """Raises NotFound."""
    with vault.session() as session:
        machine = find_machine(session, key)
        relationship = relationship_of(session, machine)
        job = _active(session, [machine.id]).get(machine.id)
        runs = tuple(runs_of(session, machine, relationship))
        return Detail(
            machine=machine,
            host=session.get_one(Host, machine.host),
            site=session.get_one(Site, machine.site),
            seen=msgspec.convert(machine.seen, Seen),
            relationship=relationship,
            standing=msgspec.convert(relationship.standing, Standing) if relationship else None,
            policy=session.get(PolicyRow, relationship.policy)
            if relationship and relationship.policy
            else None,
            runs=runs,
            job=job,
            possible=possible(relationship, [run for _, run in runs]) if job is None else (),
        )


def possible(relationship: Relationship | None, runs: Sequence[RunStanding]) -> tuple[str, ...]:
    """The kinds of job that make sense as the machine stands. Pure."""
    found = []
    if relationship is None:
        found.append("enable-protection")
    else:
        state = relationship.state
        found += ["resume"] if state == "paused" else []
        if state not in ("paused", "fenced", "sealed", UNATTENDED):
            found += ["pause", "point", "resync", "retry", "set-policy"]
        if relationship.newest is not None:
            found.append("test-failover")
            if not any(run.kind == "failover" for run in runs):
                found += (
                    ["failover"]
                    if state in ("fenced", "sealed", UNATTENDED)
                    else ["failover", "planned-failover"]
                )
        found += ["cancel-resync"] if state == "resynchronizing" else []
        if state != UNATTENDED:
            found += ["retention", "scrub", "prove"] if relationship.newest is not None else []
            found.append("disable-protection")
    for run in runs:
        if run.kind == "test":
            found.append("clean-up-test")
        elif run.phase == "committed":
            found += ["reverse-replicate", "hydrate"]
        else:
            found += ["commit", "change-point", "cancel-failover", "hydrate", "resume-failover"]
    return tuple(dict.fromkeys(found))


def begin(
    vault: Vault,
    actor: Actor,
    key: str,
    kind: str,
    params: planning.Params,
    *,
    confirm: str = "",
    once: str = "",
) -> Job:
    """Begin a job on a machine. confirm: its name, for the dangerous kinds.

    once: an idempotency key: the same call again gives the job that the first one began. Raises NotFound, Forbidden,
    Conflict.
    """
    spec = KINDS.get(kind)
    if spec is None or spec.observed:
        kinds = ", ".join(name for name, one in KINDS.items() if not one.observed)
        raise InvalidRequest(f"there is no job {kind!r}", subject=key, hint=f"choose one of {kinds}")
    return queue.once_only(
        vault,
        actor,
        once,
        lambda session, job: job.kind == kind and job.machine == find_machine(session, key).id,
        lambda: _begin(vault, actor, key, spec, kind, params, confirm=confirm, once=once),
    )


def _begin(
    vault: Vault,
    actor: Actor,
    key: str,
    spec: Kind,
    kind: str,
    params: planning.Params,
    *,
    confirm: str,
    once: str,
) -> Job:
    told = {name: value for name, value in params.items() if name != "policy"}
    with vault.audited(actor, spec.title, key, dict(told)) as transaction:
        actor.must(spec.role, f"{spec.title} of {key}")
        machine = find_machine(transaction, key)
        if spec.dangerous and confirm != machine.name:
            raise InvalidRequest(
                "this was not confirmed by the machine's name",
                subject=machine.name,
                hint=f'send "confirm": "{machine.name}"',
            )
        full = _completed(transaction, machine, kind, dict(params))
        subject = subject_of(transaction, machine, recovery=str(full.get("host", "")))
        if kind == "enable-protection" and subject.replicating:
            raise Conflict(
                "it is protected already", subject=machine.name, hint=f"`standby vm show {machine.name}`"
            )
        return queue.add(vault, transaction, actor, kind, subject, machine, full, once=once)


def subject_of(session: Session, machine: Machine, *, recovery: str = "") -> planning.Subject:
    """recovery: the host that is to run a recovered copy; a copy that is there goes before."""
    relationship = relationship_of(session, machine)
    run, host = "", recovery
    for where, one in runs_of(session, machine, relationship):
        if not run or one.kind == "failover":
            run, host = one.run, where.id
    if recovery:
        named = session.get(Host, recovery) or session.scalar(
            select(Host).where(Host.name == recovery, Host.revoked.is_(False))
        )
        if named is None:
            raise NotFound("there is no such host", subject=recovery, hint="`standby host list` lists them")
        host = host if run and host != recovery else named.id
    return planning.Subject(
        machine=machine.name,
        host=machine.host,
        seen=msgspec.convert(machine.seen, Seen),
        replicating=relationship.host if relationship else "",
        recovery=host,
        run=run,
        store=relationship.store if relationship else "",
        replica=relationship.replica if relationship else "",
        upkeep=upkeep_host(session, machine, relationship) if relationship else "",
    )


def upkeep_host(session: Session, machine: Machine, relationship: Relationship, *, but: str = "") -> str:
    """Of the hosts that take care of the site's replicas, the one with the least to do; without any, the one that
    replicates the machine. but: not this one, if there is another."""
    found = session.execute(
        select(Host.id, func.count(Job.id))
        .outerjoin(Job, (Job.host == Host.id) & Job.ended.is_(None) & Job.exclusive.is_(False))
        .where(Host.site == machine.site, Host.upkeep, ~Host.silent, ~Host.revoked, Host.id != but)
        .group_by(Host.id)
        .order_by(func.count(Job.id), Host.id)
    ).first()
    return found[0] if found else relationship.host


def relationship_of(session: Session, machine: Machine) -> Relationship | None:
    """The one that stands for the machine, whichever agent reports it."""
    return session.scalars(
        select(Relationship)
        .where(Relationship.machine == machine.id, ~Relationship.ended & ~Relationship.superseded)
        .limit(1)
    ).one_or_none()


def runs_of(
    session: Session, machine: Machine, relationship: Relationship | None
) -> list[tuple[Host, RunStanding]]:
    """Recovered copies of the machine, on whichever host of any site."""
    found = []
    for host in session.scalars(select(Host).where(Host.revoked.is_(False))):
        for told in host.runs or ():
            run = msgspec.convert(told, RunStanding)
            same = relationship is not None and (run.store, run.replica) == (
                relationship.store,
                relationship.replica,
            )
            if same or (relationship is None and run.machine == machine.name):
                found.append((host, run))
    return found


def points(vault: Vault, key: str, *, before: int | None = None, limit: int = 100) -> list[Point]:
    """Newest first, as the agent told of them; below `before` if that is given."""
    with vault.session() as session:
        relationship = relationship_of(session, find_machine(session, key))
        if relationship is None:
            return []
        query = select(Point).where(Point.relationship == relationship.id)
        if before is not None:
            query = query.where(Point.seq < before)
        return list(session.scalars(query.order_by(Point.seq.desc()).limit(max(1, min(limit, MOST)))))


def series(vault: Vault, key: str, since: timedelta) -> list[Sample]:
    """How it stood over time, oldest first."""
    with vault.session() as session:
        relationship = relationship_of(session, find_machine(session, key))
        if relationship is None:
            return []
        after: datetime = vault.clock.now() - since
        return list(
            session.scalars(
                select(Sample)
                .where(Sample.relationship == relationship.id, Sample.at >= after)
                .order_by(Sample.at)
            )
        )


def events(
    vault: Vault, *, machine: str = "", host: str = "", severity: str = "", before: str = "", limit: int = 100
) -> list[Event]:
    """Newest first; before: the id of the last of the page before."""
    with vault.session() as session:
        query = select(Event)
        if machine:
            query = query.where(Event.machine == find_machine(session, machine).id)
        if host:
            query = query.where(Event.host == host)
        if severity:
            query = query.where(Event.severity == severity)
        if before:
            query = query.where(Event.id < before)
        return list(session.scalars(query.order_by(Event.id.desc()).limit(max(1, min(limit, MOST)))))


def tiers(policy: PolicyRow) -> list[str]:
    """What retention keeps under the policy."""
    return [f"all:{policy.body['retention_hours']}h", *policy.keep]


def job_actions(job: Job) -> tuple[Action, ...]:
    return allowed(job.kind, JobState(job.state), cancelling=job.cancel)


def _completed(session: Session, machine: Machine, kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with what they name put in: the policy's settings, the store's address."""
    if kind in ("enable-protection", "set-policy"):
        name = str(params.get("policy_id") or params.get("policy") or "")
        row = session.get(PolicyRow, name) or session.scalar(select(PolicyRow).where(PolicyRow.name == name))
        if row is None:
            raise NotFound(
                "there is no such policy", subject=name or "policy", hint="`standby policy list` lists them"
            )
        params |= {"policy": row.body, "policy_id": row.id, "policy_revision": row.revision}
        if kind == "set-policy" and (relationship := relationship_of(session, machine)):
            relationship.policy, relationship.revision = row.id, row.revision
    if kind == "retention" and not params.get("keep"):
        relationship = relationship_of(session, machine)
        policy = session.get(PolicyRow, relationship.policy) if relationship and relationship.policy else None
        if policy is None:
            raise InvalidRequest(
                "it is protected under no policy of the vault", subject=machine.name, hint='send "keep"'
            )
        params["keep"] = tiers(policy)
    if kind == "enable-protection":
        key = str(params.get("store", ""))
        store = session.get(Store, key) or session.scalar(
            select(Store).where(or_(Store.name == key, Store.address == key))
        )
        if store is None:
            raise NotFound(
                "there is no such store",
                subject=key or "store",
                hint="Infrastructure in the portal lists them",
            )
        params["store"] = store.address
    for needed in {"change-point": ["point"], "leave-out-disk": ["disk"], "take-in-disk": ["disk"]}.get(
        kind, []
    ):
        if not params.get(needed):
            raise InvalidRequest(f"it needs a {needed}", subject=machine.name, hint=f'send "{needed}"')
    return params


def _order(sort: str, descending: bool) -> list[ColumnElement[Any]]:
    # Machines without protection have no health or RPO: they come last either way.
    columns: dict[str, list[ColumnElement[Any]]] = {
        "name": [func.lower(Machine.name)],
        "host": [func.lower(Host.name)],
        "state": [func.coalesce(Relationship.state, "~")],
        "health": [func.coalesce(-Relationship.level, 1)],
        # The oldest newest point first. By the instant: what a silent agent reported last gets older all the same.
        "rpo": [Relationship.newest.expression, -Relationship.rpo],
    }
    return [(one.desc() if descending else one.asc()).nulls_last() for one in columns[sort]]


def _active(session: Session, machines: Sequence[str]) -> dict[str, Job]:
    jobs = session.scalars(select(Job).where(Job.machine.in_(machines), Job.ended.is_(None), Job.exclusive))
    return {job.machine: job for job in jobs if job.machine}
