"""Policies."""

from __future__ import annotations

from fastapi import APIRouter

from standby.vault import catalogue, listing
from standby.vault.api import models
from standby.vault.api.context import As, InVault
from standby.vault.api.problem import described

router = APIRouter(tags=["policies"], responses=described(401, 422, 503))


@router.get("/policies")
def list_policies(vault: InVault, _actor: As) -> list[models.Policy]:
    return [models.Policy.model_validate(one) for one in listing.policies(vault)]


@router.post("/policies", status_code=201, responses=described(403, 409))
def create_policy(vault: InVault, actor: As, body: models.NewPolicy) -> models.Policy:
    return models.Policy.model_validate(
        catalogue.new_policy(
            vault,
            actor,
            body.name,
            body.body,
            body.drill_days,
            keep=body.keep,
            scrub_days=body.scrub_days,
            prove_days=body.prove_days,
        )
    )


@router.patch("/policies/{policy}", responses=described(403, 404, 409))
def change_policy(vault: InVault, actor: As, policy: str, body: models.PolicyChange) -> models.PolicySpread:
    """And have it take effect on its machines."""
    row, begun = catalogue.change_policy(
        vault,
        actor,
        policy,
        body.body,
        body.drill_days,
        keep=body.keep,
        scrub_days=body.scrub_days,
        prove_days=body.prove_days,
    )
    return models.PolicySpread(policy=models.Policy.model_validate(row), jobs=begun)


@router.delete("/policies/{policy}", status_code=204, responses=described(403, 404, 409))
def delete_policy(vault: InVault, actor: As, policy: str) -> None:
    catalogue.delete_policy(vault, actor, policy)
