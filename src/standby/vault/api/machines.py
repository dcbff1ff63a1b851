"""Machines: lists, one in full, its points, numbers and events, and the jobs that act on it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response

from standby.vault import machines, overview
from standby.vault.api import models, shown
from standby.vault.api.context import As, InVault
from standby.vault.api.problem import described

router = APIRouter(tags=["machines"], responses=described(401, 422, 503))


@router.get("/overview")
def get_overview(vault: InVault, _actor: As) -> models.Overview:
    """The whole at one look."""
    return shown.overview(overview.overview(vault))


@router.get("/machines")
def list_machines(
    vault: InVault,
    _actor: As,
    search: Annotated[str, Query(max_length=200)] = "",
    level: Annotated[int | None, Query(ge=0, le=3)] = None,
    state: Annotated[str, Query(max_length=50)] = "",
    site: Annotated[str, Query(max_length=26)] = "",
    host: Annotated[str, Query(max_length=26)] = "",
    protected: bool | None = None,
    sort: Literal["name", "health", "rpo", "host", "state"] = "name",
    descending: bool = False,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> models.MachinePage:
    """All machines that agents see, protected or not."""
    page = machines.listed(
        vault,
        search=search,
        level=level,
        state=state,
        site=site,
        host=host,
        protected=protected,
        sort=sort,
        descending=descending,
        offset=offset,
        limit=limit,
    )
    return models.MachinePage(
        machines=[shown.row(one) for one in page.rows], total=page.total, next=page.next
    )


@router.get("/machines/{machine}", responses=described(404, 409))
def get_machine(vault: InVault, _actor: As, machine: str) -> models.Machine:
    """machine: its id, or its name where only one has it."""
    return shown.machine(machines.shown(vault, machine))


@router.get("/machines/{machine}/points", responses=described(404, 409))
def list_points(
    vault: InVault,
    _actor: As,
    machine: str,
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> models.PointPage:
    """Recovery points, newest first, as its agent told of them."""
    found = machines.points(vault, machine, before=before, limit=limit)
    following = found[-1].seq if len(found) == limit else None
    return models.PointPage(points=[models.Point.model_validate(one) for one in found], next=following)


@router.get("/machines/{machine}/series", responses=described(404, 409))
def get_series(
    vault: InVault, _actor: As, machine: str, hours: Annotated[float, Query(gt=0, le=336)] = 24
) -> list[models.Sample]:
    """How it stood over time, oldest first."""
    return [
        models.Sample.model_validate(one) for one in machines.series(vault, machine, timedelta(hours=hours))
    ]


@router.get("/events", responses=described(404, 409))
def list_events(
    vault: InVault,
    _actor: As,
    machine: Annotated[str, Query(max_length=200)] = "",
    host: Annotated[str, Query(max_length=26)] = "",
    severity: Literal["", "information", "warning", "critical"] = "",
    before: Annotated[str, Query(max_length=26)] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> models.EventPage:
    """Newest first."""
    found = machines.events(vault, machine=machine, host=host, severity=severity, before=before, limit=limit)
    following = found[-1].id if len(found) == limit else None
    return models.EventPage(events=[models.Event.model_validate(one) for one in found], next=following)


@router.post("/machines/{machine}/jobs", status_code=202, responses=described(403, 404, 409))
def begin_job(
    vault: InVault,
    actor: As,
    machine: str,
    body: models.NewJob,
    response: Response,
    idempotency_key: Annotated[str, Header(max_length=255)] = "",
) -> models.Job:
    """Begin a job on the machine. The same Idempotency-Key again gives the job that the first call began."""
    job = machines.begin(
        vault, actor, machine, body.kind, body.params, confirm=body.confirm, once=idempotency_key
    )
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return shown.job(job)
