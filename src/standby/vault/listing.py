"""Lists of what an administrator set up, and of what was changed by whom."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select

from standby.vault.core import Actor, Vault
from standby.vault.jobs import Role
from standby.vault.schema import (
    Alert,
    ApiToken,
    Audit,
    Channel,
    Host,
    PolicyRow,
    RegistrationKey,
    Site,
    Store,
    User,
)


def sites(vault: Vault) -> Sequence[Site]:
    with vault.session() as session:
        return session.scalars(select(Site).order_by(Site.name)).all()


def hosts(vault: Vault, *, site: str = "", revoked: bool = False) -> Sequence[Host]:
    """revoked: those too."""
    with vault.session() as session:
        query = select(Host).order_by(Host.name, Host.id)
        if site:
            query = query.where(Host.site == site)
        if not revoked:
            query = query.where(Host.revoked.is_(False))
        return session.scalars(query).all()


def registration_keys(vault: Vault, actor: Actor) -> Sequence[RegistrationKey]:
    """Newest first; their secrets are not kept. Raises Forbidden."""
    actor.must(Role.ADMINISTRATOR, "registration keys")
    with vault.session() as session:
        return session.scalars(select(RegistrationKey).order_by(RegistrationKey.id.desc()).limit(200)).all()


def stores(vault: Vault) -> Sequence[Store]:
    with vault.session() as session:
        return session.scalars(select(Store).order_by(Store.name)).all()


def policies(vault: Vault) -> Sequence[PolicyRow]:
    with vault.session() as session:
        return session.scalars(select(PolicyRow).order_by(PolicyRow.name)).all()


def channels(vault: Vault, actor: Actor) -> Sequence[Channel]:
    """Raises Forbidden."""
    actor.must(Role.ADMINISTRATOR, "channels of alerts")
    with vault.session() as session:
        return session.scalars(select(Channel).order_by(Channel.name)).all()


def alerts(vault: Vault, *, cleared: bool = False, before: str = "", limit: int = 100) -> Sequence[Alert]:
    """Newest first. cleared: those too."""
    with vault.session() as session:
        query = select(Alert).order_by(Alert.id.desc()).limit(max(1, min(limit, 500)))
        if not cleared:
            query = query.where(Alert.cleared.is_(None))
        if before:
            query = query.where(Alert.id < before)
        return session.scalars(query).all()


def users(vault: Vault, actor: Actor) -> Sequence[User]:
    """Raises Forbidden."""
    actor.must(Role.ADMINISTRATOR, "users")
    with vault.session() as session:
        return session.scalars(select(User).order_by(User.name)).all()


def tokens(vault: Vault, actor: Actor) -> Sequence[ApiToken]:
    """The actor's own."""
    with vault.session() as session:
        return session.scalars(
            select(ApiToken).where(ApiToken.user == actor.user).order_by(ApiToken.id.desc())
        ).all()


def audit(vault: Vault, actor: Actor, *, before: str = "", limit: int = 100) -> Sequence[Audit]:
    """Newest first. Raises Forbidden."""
    actor.must(Role.ADMINISTRATOR, "the audit")
    with vault.session() as session:
        query = select(Audit).order_by(Audit.id.desc()).limit(max(1, min(limit, 500)))
        if before:
            query = query.where(Audit.id < before)
        return session.scalars(query).all()
