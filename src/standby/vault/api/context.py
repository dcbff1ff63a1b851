"""What routes get from their request: the vault, and who asks."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from standby.vault.access import bearer
from standby.vault.core import Actor, Vault
from standby.vault.errors import Unauthenticated

_scheme = HTTPBearer(auto_error=False, description="An API token, made in the portal.")


def vault_of(request: Request) -> Vault:
    vault: Vault = request.app.state.vault
    return vault


def address_of(request: Request) -> str:
    return request.client.host if request.client else ""


InVault = Annotated[Vault, Depends(vault_of)]
From = Annotated[str, Depends(address_of)]


def actor_of(
    request: Request,
    vault: InVault,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Security(_scheme)],
) -> Actor:
    """Raises Unauthenticated."""
    if credentials is None:
        raise Unauthenticated(
            "no API token was sent",
            subject="API",
            hint="send `Authorization: Bearer TOKEN`; the portal makes tokens",
        )
    return bearer(vault, credentials.credentials, address_of(request))


As = Annotated[Actor, Depends(actor_of)]
