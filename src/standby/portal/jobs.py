"""Jobs: the list, one with its tasks, and what may be done with it."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Response

from standby.errors import InvalidRequest
from standby.portal.fields import FormPage, refused, show
from standby.portal.visit import Form, Route, Visit, Visiting, to
from standby.recovery.plan_document import Kind
from standby.vault import machines, overview, queue
from standby.vault.errors import NotFound
from standby.vault.jobs import KINDS, Action, JobState
from standby.vault.listing import hosts
from standby.vault.overview import JobDetail
from standby.vault.plans import JOBS
from standby.vault.usage import progress

router = APIRouter(prefix="/jobs", include_in_schema=False, route_class=Route)

ON_PAGE: Final = 50


@router.get("")
def show_list(
    visit: Visiting,
    state: Annotated[str, Query(max_length=50)] = "",
    kind: Annotated[str, Query(max_length=50)] = "",
    machine: Annotated[str, Query(max_length=26)] = "",
    before: Annotated[str, Query(max_length=26)] = "",
) -> Response:
    found = overview.jobs(visit.vault, state=state, kind=kind, machine=machine, before=before, limit=ON_PAGE)
    chosen = {"state": state, "kind": kind, "machine": machine}

    def link(**changes: str) -> str:
        kept = {name: value for name, value in {**chosen, **changes}.items() if value}
        return "/jobs" + (f"?{urlencode(kept)}" if kept else "")

    return visit.page(
        "jobs.html",
        jobs=found,
        progress=progress(visit.vault, found),
        chosen=chosen,
        link=link,
        before=before,
        states=[one.value for one in JobState],
        kinds=KINDS,
        next=found[-1].id if len(found) == ON_PAGE else None,
    )


@router.get("/{job}")
def show_job(visit: Visiting, job: str) -> Response:
    found = _job(visit, job)
    names = {one.id: one.name for one in hosts(visit.vault, revoked=True)}
    may = visit.actor.role >= KINDS[found.job.kind].role
    return visit.page(
        "job.html",
        job=found.job,
        tasks=found.tasks,
        kind=KINDS[found.job.kind],
        actions=machines.job_actions(found.job) if may else (),
        host=names.get(found.job.host or "", ""),
        cleans=may and found.job.kind == JOBS[Kind.TEST] and found.job.ended and "run" in found.job.result,
        parts=[names.get(one["host"], one["host"]) for one in found.job.parts],
        shown={name: _told(value) for name, value in found.job.params.items() if _tells(name, value)},
    )


@router.get("/{job}/{action}")
def ask(visit: Visiting, job: str, action: Action) -> Response:
    found = _job(visit, job)
    visit.actor.must(KINDS[found.job.kind].role, f"{action} of job {KINDS[found.job.kind].title}")
    return show(visit, _form(found, action))


@router.post("/{job}/{action}")
def act(visit: Visiting, form: Form, job: str, action: Action) -> Response:
    try:
        done = queue.act(visit.vault, visit.actor, job, action)
    except InvalidRequest as error:
        return refused(visit, _form(_job(visit, job), action), form, error)
    return to(visit, f"/jobs/{done.id}")


_TEXTS: Final = {
    Action.CANCEL: "What is under way is given up at the next point where that is safe; the job’s tasks tell what was"
    " done until then.",
    Action.RESTART: "The same is done once more as a new job, from the part that failed.",
    Action.CONTINUE: "The step that it waits for is done: the job goes on.",
}


def _form(found: JobDetail, action: Action) -> FormPage:
    job = found.job
    return FormPage(
        f"{str(action).capitalize()} this job? {KINDS[job.kind].title} of {job.subject}",
        f"/jobs/{job.id}/{action}",
        {Action.CANCEL: "Cancel the job", Action.RESTART: "Restart it", Action.CONTINUE: "Continue"}[action],
        f"/jobs/{job.id}",
        text=(_TEXTS[action],),
        danger=action is Action.CANCEL,
    )


def _job(visit: Visit, job: str) -> JobDetail:
    found = overview.job(visit.vault, job)
    if found is None:
        raise NotFound("there is no such job", subject=job, hint="Jobs lists them")
    return found


def _tells(name: str, value: object) -> bool:
    return bool(value) and not name.startswith("policy") and name not in ("host", "plan", "document")


def _told(value: object) -> str:
    if value is True:
        return "yes"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
