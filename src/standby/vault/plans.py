"""Recovery plans that the vault keeps, and their runs as jobs of the host that recovers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from standby.errors import InvalidRequest
from standby.link.messages import Seen
from standby.recovery.plan_document import Kind, Plan, PlanRefused, parse, problems
from standby.vault import queue
from standby.vault.core import Actor, Vault
from standby.vault.errors import Conflict, NotFound
from standby.vault.hosts import find_host
from standby.vault.jobs import KINDS, JobState, Role
from standby.vault.planning import Subject
from standby.vault.schema import Job, Machine, PlanRow, Relationship

JOBS: Final = {Kind.TEST: "test-plan", Kind.UNPLANNED: "run-plan", Kind.PLANNED: "planned-plan"}


def listed(vault: Vault) -> Sequence[PlanRow]:
    with vault.session() as session:
        return session.scalars(select(PlanRow).order_by(PlanRow.name)).all()


def find_plan(session: Session, key: str) -> PlanRow:
    """By id or name. Raises NotFound."""
    row = session.get(PlanRow, key) or session.scalar(select(PlanRow).where(PlanRow.name == key))
    if row is None:
        raise NotFound("there is no such plan", subject=key, hint="Recovery plans in the portal lists them")
    return row


def keep(vault: Vault, actor: Actor, document: str, host_key: str) -> PlanRow:
    """A new plan, or another document for the one of its name. host: that runs its machines.

    For administrators: its scripts run on that host. Raises InvalidRequest, PlanRefused, Forbidden.
    """
    told = {"host": host_key}
    with vault.audited(actor, "keep plan", "recovery plan", told) as session:
        actor.must(Role.ADMINISTRATOR, "keeping a recovery plan")
        plan = parse(document, "plan")
        told["plan"] = plan.name
        if found := problems(plan):
            raise PlanRefused(plan.name, tuple(found))
        host = find_host(session, host_key)
        now = vault.clock.now()
        row = session.scalar(select(PlanRow).where(PlanRow.name == plan.name))
        if row is None:
            row = PlanRow(id=vault.new_id(), name=plan.name, created=now)
            session.add(row)
        row.document, row.host, row.changed = document, host.id, now
        return row


def delete(vault: Vault, actor: Actor, key: str) -> None:
    """Raises NotFound, Forbidden. Its past runs stay in the list of jobs."""
    with vault.audited(actor, "delete plan", key) as session:
        actor.must(Role.ADMINISTRATOR, "deleting a recovery plan")
        session.delete(find_plan(session, key))


def begin(
    vault: Vault,
    actor: Actor,
    key: str,
    kind_name: str,
    *,
    confirm: str = "",
    source_down: bool = False,
    once: str = "",
) -> Job:
    """Run it. confirm: its name, unless it is a test. once: an idempotency key.

    Raises NotFound, Conflict, InvalidRequest, Forbidden.
    """
    actor.must(Role.OPERATOR, f"running the recovery plan {key}")
    if kind_name not in set(Kind):
        raise InvalidRequest(
            f"a plan has no {kind_name!r} run", subject=key, hint=f"choose {', '.join(Kind)}"
        )
    kind = Kind(kind_name)
    name = JOBS[kind]
    return queue.once_only(
        vault,
        actor,
        once,
        lambda session, job: job.kind == name and job.subject == find_plan(session, key).name,
        lambda: _begin(vault, actor, key, kind, confirm=confirm, source_down=source_down, once=once),
    )


def _begin(
    vault: Vault, actor: Actor, key: str, kind: Kind, *, confirm: str, source_down: bool, once: str
) -> Job:
    name = JOBS[kind]
    with vault.audited(actor, KINDS[name].title, key, {"kind": kind.value}) as session:
        actor.must(KINDS[name].role, f"{KINDS[name].title} {key}")
        row = find_plan(session, key)
        if KINDS[name].dangerous and confirm != row.name:
            raise InvalidRequest(
                "this was not confirmed by the plan's name",
                subject=row.name,
                hint=f'send "confirm": "{row.name}"',
            )
        _refuse_second(session, row)
        plan = parse(row.document, row.name)
        source = _source(session, plan) if kind is Kind.PLANNED else ""
        params = {"plan": row.id, "document": row.document, "source_down": source_down}
        return queue.add(
            vault, session, actor, name, _subject(row.name, row.host, source), None, params, once=once
        )


def clean_up(vault: Vault, actor: Actor, job_id: str) -> Job:
    """End the machines that a test of a plan started. Raises NotFound, Conflict."""
    with vault.audited(actor, "clean up plan", job_id) as session:
        actor.must(Role.OPERATOR, "cleaning up a recovery plan")
        job = session.get(Job, job_id)
        if job is None or job.kind not in JOBS.values():
            raise NotFound(
                "there is no such run of a plan", subject=job_id, hint="`standby job list` lists them"
            )
        run = job.result.get("run", "")
        if not run:
            raise Conflict("it started nothing", subject=job.subject, hint="there is nothing to clean up")
        host = job.parts[-1]["host"]
        subject = _subject(job.subject, host, "")._replace(run=run)
        return queue.add(vault, session, actor, "clean-up-plan", subject, None, {"plan": job.params["plan"]})


def _subject(name: str, host: str, source: str) -> Subject:
    return Subject(machine=name, host=host, seen=Seen(name=name), replicating=source, recovery=host)


def _refuse_second(session: Session, row: PlanRow) -> None:
    for job in session.scalars(
        select(Job).where(Job.kind.in_(JOBS.values()), Job.ended.is_(None), Job.subject == row.name)
    ):
        raise Conflict(
            f"a run of it is {JobState(job.state)}", subject=row.name, hint=f"see job {job.id}, or cancel it"
        )


def _source(session: Session, plan: Plan) -> str:
    """The host that replicates all members. Raises Conflict where they have several."""
    hosts = set()
    for member in plan.members:
        found = session.scalars(
            select(Relationship.host)
            .join(Machine, Machine.id == Relationship.machine)
            .where(
                Relationship.replica == member.replica,
                or_(Relationship.store == member.store, Relationship.store == member.store.rstrip("/")),
                ~Relationship.ended,
                ~Relationship.superseded,
            )
        ).first()
        if found is None:
            raise Conflict(
                f"nobody replicates its member {member.id}",
                subject=plan.name,
                hint="a planned run needs each member protected; run it unplanned if the sources are gone",
            )
        hosts.add(found)
    if len(hosts) > 1:
        raise Conflict(
            f"its members run on {len(hosts)} hosts",
            subject=plan.name,
            hint="seal them on each host with `standby plan run FILE --kind planned --part seal`, then start it here",
        )
    return hosts.pop()
