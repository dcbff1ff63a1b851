"""Sites, hosts, registration keys and stores."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from standby.vault import catalogue, hosts, listing
from standby.vault.api import models
from standby.vault.api.context import As, InVault
from standby.vault.api.problem import described

router = APIRouter(tags=["infrastructure"], responses=described(401, 422, 503))


@router.get("/sites")
def list_sites(vault: InVault, _actor: As) -> list[models.Site]:
    return [models.Site.model_validate(one) for one in listing.sites(vault)]


@router.post("/sites", status_code=201, responses=described(403, 409))
def create_site(vault: InVault, actor: As, body: models.NewSite) -> models.Site:
    return models.Site.model_validate(hosts.new_site(vault, actor, body.name))


@router.delete("/sites/{site}", status_code=204, responses=described(403, 404, 409))
def delete_site(vault: InVault, actor: As, site: str) -> None:
    hosts.delete_site(vault, actor, site)


@router.get("/hosts")
def list_hosts(
    vault: InVault, _actor: As, site: Annotated[str, Query(max_length=26)] = "", revoked: bool = False
) -> list[models.Host]:
    return [models.Host.model_validate(one) for one in listing.hosts(vault, site=site, revoked=revoked)]


@router.get("/hosts/{host}", responses=described(404, 409))
def get_host(vault: InVault, _actor: As, host: str) -> models.Host:
    with vault.session() as session:
        return models.Host.model_validate(hosts.find_host(session, host))


@router.patch("/hosts/{host}", responses=described(403, 404, 409))
def change_host(vault: InVault, actor: As, host: str, body: models.HostChange) -> models.Host:
    return models.Host.model_validate(hosts.set_upkeep(vault, actor, host, body.upkeep))


@router.post("/hosts/{host}/revoke", status_code=204, responses=described(403, 404, 409))
def revoke_host(vault: InVault, actor: As, host: str) -> None:
    """Refuse its agent from now on. Its machines go on being replicated: that needs no vault."""
    hosts.revoke(vault, actor, host)


@router.get("/registration-keys", responses=described(403))
def list_keys(vault: InVault, actor: As) -> list[models.RegistrationKey]:
    return [models.RegistrationKey.model_validate(one) for one in listing.registration_keys(vault, actor)]


@router.post("/registration-keys", status_code=201, responses=described(403, 404))
def create_key(vault: InVault, actor: As, body: models.NewKey, request: Request) -> models.VaultKeyFile:
    """A vault key file: it lets one host register, for some days."""
    state = request.app.state
    url = state.url or str(request.base_url).rstrip("/")
    key = hosts.new_key(vault, actor, body.site, url, state.authority, days=body.days)
    return models.VaultKeyFile.model_validate(key)


@router.delete("/registration-keys/{key}", status_code=204, responses=described(403, 404))
def delete_key(vault: InVault, actor: As, key: str) -> None:
    hosts.delete_key(vault, actor, key)


@router.get("/stores")
def list_stores(vault: InVault, _actor: As) -> list[models.Store]:
    return [models.Store.model_validate(one) for one in listing.stores(vault)]


@router.post("/stores", status_code=201, responses=described(403, 409))
def create_store(vault: InVault, actor: As, body: models.NewStore) -> models.Store:
    return models.Store.model_validate(catalogue.new_store(vault, actor, body.name, body.address))


@router.delete("/stores/{store}", status_code=204, responses=described(403, 404, 409))
def delete_store(vault: InVault, actor: As, store: str) -> None:
    """Its name in the vault only: what is in the store stays."""
    catalogue.delete_store(vault, actor, store)
