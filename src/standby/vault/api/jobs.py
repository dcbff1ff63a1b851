"""Jobs: lists, one with its tasks, and what may be done with it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query

from standby.vault import overview, queue
from standby.vault.api import models, shown
from standby.vault.api.context import As, InVault
from standby.vault.api.problem import described
from standby.vault.errors import NotFound
from standby.vault.jobs import KINDS, Action, JobState

router = APIRouter(tags=["jobs"], responses=described(401, 422, 503))


@router.get("/jobs")
def list_jobs(
    vault: InVault,
    _actor: As,
    state: JobState | None = None,
    machine: Annotated[str, Query(max_length=26)] = "",
    kind: Annotated[str, Query(max_length=64)] = "",
    before: Annotated[str, Query(max_length=26)] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> models.JobPage:
    """Newest first."""
    found = overview.jobs(vault, state=state or "", machine=machine, kind=kind, before=before, limit=limit)
    following = found[-1].id if len(found) == limit else None
    return models.JobPage(jobs=[shown.job(one) for one in found], next=following)


@router.get("/job-kinds")
def list_kinds(_actor: As) -> list[models.JobKind]:
    """What jobs there are, and who may begin them."""
    return [
        models.JobKind(
            kind=name,
            title=one.title,
            role=str(one.role),
            dangerous=one.dangerous,
            observed=one.observed,
            tasks=list(one.tasks),
        )
        for name, one in KINDS.items()
    ]


@router.get("/jobs/{job}", responses=described(404))
def get_job(vault: InVault, _actor: As, job: str) -> models.JobDetail:
    found = overview.job(vault, job)
    if found is None:
        raise NotFound("there is no such job", subject=job, hint="`standby job list` lists them")
    return shown.job_detail(found)


@router.post("/jobs/{job}/{action}", status_code=202, responses=described(403, 404, 409))
def act_on_job(
    vault: InVault,
    actor: As,
    job: str,
    action: Action,
    idempotency_key: Annotated[str, Header(max_length=255)] = "",
) -> models.Job:
    """Cancel it, restart it (which gives a new job) or have it continue after a manual step.

    A restart with the same Idempotency-Key again gives the job that the first call began."""
    return shown.job(queue.act(vault, actor, job, action, once=idempotency_key))
