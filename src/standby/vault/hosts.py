"""Hosts and how their agents prove who they are: one-use registration keys, then tokens that renew themselves."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from standby.link.messages import Registered, Registration, VaultKey
from standby.vault.core import Actor, Vault
from standby.vault.errors import Conflict, NotFound, Unauthenticated
from standby.vault.events import Severity, add_event
from standby.vault.jobs import Role
from standby.vault.schema import Host, HostToken, Job, Machine, RegistrationKey, Relationship, Site

KEY_DAYS: Final = 5
"""Azure Site Recovery: a vault registration key is valid for 5 days."""

TOKEN_LIFE: Final = timedelta(days=30)
RENEWED: Final = timedelta(days=10)
"""Age of a token from which on the agent is given another."""

SILENT: Final = timedelta(seconds=90)
"""Without a heartbeat, after which a host counts as silent."""


class Granted(NamedTuple):
    """A new token, in clear for this once."""

    token: str
    expires: datetime


def digest(secret: str) -> str:
    """What is kept of a secret that is random itself."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_site(vault: Vault, actor: Actor, name: str) -> Site:
    """Raises Forbidden, Conflict."""
    with vault.audited(actor, "create site", name) as session:
        actor.must(Role.ADMINISTRATOR, "creating a site")
        if session.scalar(select(Site).where(Site.name == name)):
            raise Conflict("there is a site of this name already", subject=name, hint="choose another name")
        site = Site(id=vault.new_id(), name=name, created=vault.clock.now())
        session.add(site)
        return site


def delete_site(vault: Vault, actor: Actor, site_id: str) -> None:
    """Raises Conflict while hosts belong to it."""
    with vault.audited(actor, "delete site", site_id) as session:
        actor.must(Role.ADMINISTRATOR, "deleting a site")
        site = find_site(session, site_id)
        if session.scalar(select(Host.id).where(Host.site == site.id).limit(1)):
            raise Conflict("it has hosts", subject=site.name, hint="a site goes when no host was ever in it")
        session.execute(delete(RegistrationKey).where(RegistrationKey.site == site.id))
        session.delete(site)


def find_site(session: Session, key: str) -> Site:
    """By id or name. Raises NotFound."""
    site = session.get(Site, key) or session.scalar(select(Site).where(Site.name == key))
    if site is None:
        raise NotFound("there is no such site", subject=key, hint="`standby site list` lists them")
    return site


def find_host(session: Session, key: str) -> Host:
    """By id, or by name where only one has it. Raises NotFound, Conflict."""
    if host := session.get(Host, key):
        return host
    named = session.scalars(select(Host).where(Host.name == key, Host.revoked.is_(False))).all()
    if not named:
        raise NotFound("there is no such host", subject=key, hint="`standby host list` lists them")
    if len(named) > 1:
        raise Conflict(
            f"{len(named)} hosts have this name",
            subject=key,
            hint=f"give its id: {', '.join(one.id for one in named)}",
        )
    return named[0]


def new_key(
    vault: Vault, actor: Actor, site_key: str, url: str, authority: str, *, days: float = KEY_DAYS
) -> VaultKey:
    """A vault key file's content; it is told this once only. Raises Forbidden, NotFound."""
    secret = secrets.token_urlsafe(32)
    now = vault.clock.now()
    expires = now + timedelta(days=days)
    with vault.audited(actor, "create registration key", site_key, {"days": days}) as session:
        actor.must(Role.ADMINISTRATOR, "making a registration key")
        site = find_site(session, site_key)
        session.add(
            RegistrationKey(
                id=vault.new_id(),
                hash=digest(secret),
                site=site.id,
                made_by=actor.name,
                created=now,
                expires=expires,
            )
        )
        return VaultKey(
            vault=url, site=site.name, key=secret, expires=expires.isoformat(), authority=authority
        )


def delete_key(vault: Vault, actor: Actor, key_id: str) -> None:
    with vault.audited(actor, "delete registration key", key_id) as session:
        actor.must(Role.ADMINISTRATOR, "deleting a registration key")
        key = session.get(RegistrationKey, key_id)
        if key is None:
            raise NotFound("there is no such key", subject=key_id, hint="`standby host keys` lists them")
        session.delete(key)


def register(vault: Vault, asked: Registration, address: str) -> Registered:
    """One registration per key. Raises Unauthenticated."""
    agent = Actor(f"agent of {asked.name}", Role.READER, "agent", address=address)
    now = vault.clock.now()
    with vault.audited(agent, "register host", asked.name) as session:
        key = session.scalars(
            select(RegistrationKey).where(RegistrationKey.hash == digest(asked.key)).with_for_update()
        ).one_or_none()
        if key is None or key.used or key.expires <= now:
            why = "unknown" if key is None else "used already" if key.used else "no longer valid"
            raise Unauthenticated(
                f"its registration key is {why}",
                subject=f"host {asked.name}",
                hint="make a new one: `standby host key SITE`, or Infrastructure in the portal",
            )
        site = find_site(session, key.site)
        host = session.get(Host, asked.host) if asked.host else None
        if host is None or host.revoked or host.site != site.id:
            host = Host(
                id=vault.new_id(),
                site=site.id,
                name=asked.name,
                version=asked.version,
                registered=now,
            )
            session.add(host)
            session.flush()
        host.name, host.version = asked.name, asked.version
        key.used, key.host = now, host.id
        session.execute(delete(HostToken).where(HostToken.host == host.id))
        granted = _grant(session, host.id, now)
        add_event(
            vault,
            session,
            Severity.INFORMATION,
            "host-registered",
            host.name,
            f"Host {host.name} registered with site {site.name}, with a key of {key.made_by}",
            host=host.id,
        )
        return Registered(
            host=host.id, site=site.name, token=granted.token, expires=granted.expires.isoformat()
        )


def authenticate(vault: Vault, session: Session, token: str) -> tuple[Host, Granted | None]:
    """Whose token it is, and another one where it is old. Raises Unauthenticated."""
    now = vault.clock.now()
    row = session.get(HostToken, digest(token))
    host = session.get(Host, row.host) if row and row.expires > now else None
    if row is None or host is None or host.revoked:
        raise Unauthenticated(
            "its token is unknown, has expired or was revoked",
            subject="agent",
            hint="register the host again: `standby agent register KEYFILE` with a new key file",
        )
    if not row.used:
        # Its answer arrived, so those before it have no one left.
        row.used = True
        session.execute(delete(HostToken).where(HostToken.host == host.id, HostToken.created < row.created))
    if now - row.created < RENEWED:
        return host, None
    # One that was given and whose answer was lost is replaced.
    session.execute(delete(HostToken).where(HostToken.host == host.id, HostToken.used.is_(False)))
    return host, _grant(session, host.id, now)


def revoke(vault: Vault, actor: Actor, host_key: str) -> None:
    """Its agent is refused from now on. Its machines go on being replicated: that needs no vault. Raises Forbidden."""
    with vault.audited(actor, "revoke host", host_key) as session:
        actor.must(Role.ADMINISTRATOR, "revoking a host")
        host = find_host(session, host_key)
        host.revoked = True
        session.execute(delete(HostToken).where(HostToken.host == host.id))
        for machine in session.scalars(select(Machine).where(Machine.host == host.id)):
            machine.present = False
        for one in session.scalars(select(Relationship).where(Relationship.host == host.id)):
            one.ended = True
        now = vault.clock.now()
        for job in session.scalars(select(Job).where(Job.host == host.id, Job.ended.is_(None))):
            job.state, job.ended = "cancelled", now
        add_event(
            vault,
            session,
            Severity.WARNING,
            "host-revoked",
            host.name,
            f"Host {host.name} was revoked by {actor.name}",
            host=host.id,
        )


def set_upkeep(vault: Vault, actor: Actor, host_key: str, upkeep: bool) -> Host:
    """Whether it takes care of its site's replicas. Raises Forbidden, NotFound."""
    with vault.audited(actor, "change host", host_key, {"upkeep": upkeep}) as session:
        actor.must(Role.ADMINISTRATOR, "changing a host")
        host = find_host(session, host_key)
        host.upkeep = upkeep
        return host


def _grant(session: Session, host: str, now: datetime) -> Granted:
    token = secrets.token_urlsafe(32)
    expires = now + TOKEN_LIFE
    session.add(HostToken(hash=digest(token), host=host, created=now, expires=expires, used=False))
    return Granted(token, expires)
