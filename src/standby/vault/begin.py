"""What a new vault begins with: its first user, and for one host all that is needed to protect the first machine."""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import func, select

from standby.vault import access, catalogue, hosts
from standby.vault.core import Vault
from standby.vault.errors import Conflict
from standby.vault.jobs import Role
from standby.vault.schema import PolicyRow, Site, Store, User

FIRST_USER: Final = "admin"

POLICIES: Final = {
    "Every 30 seconds": {"frequency": 30},
    "Every 5 minutes": {"frequency": 300},
    "Every 15 minutes": {"frequency": 900},
}
"""Azure Site Recovery's copy frequencies for Hyper-V."""


def first_user(vault: Vault) -> str | None:
    """Make the first administrator, `admin`. The password, to be told this once; None if there are users already."""
    with vault.session() as session:
        if session.scalar(select(func.count()).select_from(User)):
            return None
    password = secrets.token_urlsafe(12)
    try:
        access.new_user(vault, access.console("first start"), FIRST_USER, Role.ADMINISTRATOR, password)
    except Conflict:
        # Another process of this vault was first, and told its password.
        return None
    return password


def first_policies(vault: Vault) -> None:
    """Those that most begin with; none if somebody made some already."""
    with vault.session() as session:
        if session.scalar(select(func.count()).select_from(PolicyRow)):
            return
    for name, body in POLICIES.items():
        catalogue.new_policy(vault, access.console("first start"), name, dict(body), 90)


def first_site(vault: Vault, name: str, store: str) -> None:
    """A site, and a store at this address; neither if there is one."""
    actor = access.console("first start")
    with vault.session() as session:
        sites = session.scalar(select(func.count()).select_from(Site))
        stores = session.scalar(select(func.count()).select_from(Store))
    if not sites:
        hosts.new_site(vault, actor, name)
    if not stores:
        catalogue.new_store(vault, actor, f"{name} store", store)
