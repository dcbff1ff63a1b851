"""Recovery plans and their runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Response

from standby.vault import plans
from standby.vault.api import models, shown
from standby.vault.api.context import As, InVault
from standby.vault.api.problem import described

router = APIRouter(tags=["plans"], responses=described(401, 422, 503))


@router.get("/plans")
def list_plans(vault: InVault, _actor: As) -> list[models.Plan]:
    return [models.Plan.model_validate(one) for one in plans.listed(vault)]


@router.put("/plans", responses=described(403, 404, 409))
def keep_plan(vault: InVault, actor: As, body: models.NewPlan) -> models.Plan:
    """Keep a plan; one of the same name is replaced."""
    return models.Plan.model_validate(plans.keep(vault, actor, body.document, body.host))


@router.delete("/plans/{plan}", status_code=204, responses=described(403, 404))
def delete_plan(vault: InVault, actor: As, plan: str) -> None:
    plans.delete(vault, actor, plan)


@router.post("/plans/{plan}/runs", status_code=202, responses=described(403, 404, 409))
def run_plan(
    vault: InVault,
    actor: As,
    plan: str,
    body: models.NewRun,
    response: Response,
    idempotency_key: Annotated[str, Header(max_length=255)] = "",
) -> models.Job:
    """Run a plan as a job of the host that runs its machines."""
    job = plans.begin(
        vault,
        actor,
        plan,
        body.kind,
        confirm=body.confirm,
        source_down=body.source_down,
        once=idempotency_key,
    )
    response.headers["Location"] = f"/api/v1/jobs/{job.id}"
    return shown.job(job)


@router.post("/jobs/{job}/clean-up", status_code=202, responses=described(403, 404, 409))
def clean_up_plan(vault: InVault, actor: As, job: str) -> models.Job:
    """End the machines that a test of a plan started."""
    return shown.job(plans.clean_up(vault, actor, job))
