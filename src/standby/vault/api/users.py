"""Users, API tokens, the audit."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from standby.vault import access, listing
from standby.vault.access import role_named
from standby.vault.api import models
from standby.vault.api.context import As, From, InVault
from standby.vault.api.problem import described

router = APIRouter(tags=["users"], responses=described(401, 422, 503))


@router.post("/login", status_code=201, responses=described(429))
def log_in(vault: InVault, address: From, body: models.LogIn) -> models.MadeToken:
    """A token for a program that was given a name and a password, such as `standby login`. The one route for people
    that asks for no token. Too many wrong passwords for a name, or from an address, are refused for a while."""
    row, token = access.log_in_program(
        vault, body.name, body.password, address, token=body.token, days=body.days
    )
    return models.MadeToken(**models.Token.model_validate(row).model_dump(), token=token)


@router.get("/me")
def get_me(actor: As) -> models.Me:
    """Whose token this is."""
    return models.Me(name=actor.name, role=str(actor.role))


@router.get("/users", responses=described(403))
def list_users(vault: InVault, actor: As) -> list[models.User]:
    return [models.User.model_validate(one) for one in listing.users(vault, actor)]


@router.post("/users", status_code=201, responses=described(403, 409))
def create_user(vault: InVault, actor: As, body: models.NewUser) -> models.User:
    made = access.new_user(vault, actor, body.name, role_named(body.role), body.password)
    return models.User.model_validate(made)


@router.patch("/users/{user}", responses=described(403, 404, 409))
def change_user(vault: InVault, actor: As, user: str, body: models.UserChange) -> models.User:
    """Ends the user's sessions. Anybody may change the own password."""
    changed = access.change_user(
        vault,
        actor,
        user,
        role=role_named(body.role) if body.role is not None else None,
        enabled=body.enabled,
        password=body.password,
    )
    return models.User.model_validate(changed)


@router.delete("/users/{user}", status_code=204, responses=described(403, 404, 409))
def delete_user(vault: InVault, actor: As, user: str) -> None:
    access.delete_user(vault, actor, user)


@router.get("/tokens")
def list_tokens(vault: InVault, actor: As) -> list[models.Token]:
    """One's own."""
    return [models.Token.model_validate(one) for one in listing.tokens(vault, actor)]


@router.post("/tokens", status_code=201, responses=described(403))
def create_token(vault: InVault, actor: As, body: models.NewToken) -> models.MadeToken:
    row, token = access.new_token(vault, actor, body.name, role_named(body.role), body.days)
    return models.MadeToken(**models.Token.model_validate(row).model_dump(), token=token)


@router.delete("/tokens/{token}", status_code=204, responses=described(404))
def delete_token(vault: InVault, actor: As, token: str) -> None:
    access.delete_token(vault, actor, token)


@router.get("/audit", responses=described(403))
def list_audit(
    vault: InVault,
    actor: As,
    before: Annotated[str, Query(max_length=26)] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> models.AuditPage:
    """Every change and who made it, newest first."""
    found = listing.audit(vault, actor, before=before, limit=limit)
    following = found[-1].id if len(found) == limit else None
    return models.AuditPage(entries=[models.AuditEntry.model_validate(one) for one in found], next=following)
