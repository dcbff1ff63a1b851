"""Alerts and where they are told."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from standby.vault import alerts, catalogue, listing
from standby.vault.api import models
from standby.vault.api.context import As, InVault
from standby.vault.api.problem import described

router = APIRouter(tags=["alerts"], responses=described(401, 422, 503))


@router.get("/alerts")
def list_alerts(
    vault: InVault,
    _actor: As,
    cleared: bool = False,
    before: Annotated[str, Query(max_length=26)] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[models.Alert]:
    """Newest first; before: the id of the last of the page before."""
    found = listing.alerts(vault, cleared=cleared, before=before, limit=limit)
    return [models.Alert.model_validate(one) for one in found]


@router.post("/alerts/{alert}/acknowledge", responses=described(403, 404))
def acknowledge(vault: InVault, actor: As, alert: str) -> models.Alert:
    return models.Alert.model_validate(alerts.acknowledge(vault, actor, alert))


@router.get("/channels", responses=described(403))
def list_channels(vault: InVault, actor: As) -> list[models.Channel]:
    return [models.Channel.model_validate(one) for one in listing.channels(vault, actor)]


@router.post("/channels", status_code=201, responses=described(403, 409))
def create_channel(vault: InVault, actor: As, body: models.NewChannel) -> models.Channel:
    made = catalogue.new_channel(vault, actor, body.name, body.kind, body.target, body.kinds)
    return models.Channel.model_validate(made)


@router.delete("/channels/{channel}", status_code=204, responses=described(403, 404))
def delete_channel(vault: InVault, actor: As, channel: str) -> None:
    catalogue.delete_channel(vault, actor, channel)
