"""Users, their log-ins, sessions and API tokens."""

from __future__ import annotations

import re
import secrets
from datetime import timedelta
from typing import Final, NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session as Transaction

from standby.errors import InvalidRequest
from standby.vault.core import CONSOLE, Actor, Vault
from standby.vault.errors import Conflict, Forbidden, NotFound, TooManyAttempts, Unauthenticated
from standby.vault.hosts import digest
from standby.vault.jobs import Role
from standby.vault.schema import ApiToken, Attempt, Session, User

SESSION_LIFE: Final = timedelta(hours=12)
SESSION_IDLE: Final = timedelta(hours=2)
ATTEMPTS: Final = 10
ATTEMPTS_IN: Final = timedelta(minutes=15)
"""Wrong passwords for one name, or from one address, after which log-ins are refused for the rest of this time."""

SHORTEST: Final = 10
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

hasher = PasswordHasher()
# Checked where there is no such user, so that the time of an answer does not tell who exists.
_NOBODY: Final = hasher.hash(secrets.token_hex())


class LoggedIn(NamedTuple):
    """cookie: in clear for this once. csrf: what its forms must bring."""

    cookie: str
    csrf: str
    user: User


class Visitor(NamedTuple):
    actor: Actor
    csrf: str


def role_named(name: str) -> Role:
    """Raises InvalidRequest."""
    try:
        return Role[name.upper()]
    except KeyError as error:
        raise InvalidRequest(
            f"there is no role {name!r}", subject="role", hint=f"choose one of {', '.join(map(str, Role))}"
        ) from error


def console(name: str) -> Actor:
    """Who runs commands on the vault's own machine, with its database."""
    return Actor(name, Role.ADMINISTRATOR, CONSOLE)


def new_user(vault: Vault, actor: Actor, name: str, role: Role, password: str) -> User:
    """Raises Forbidden, Conflict, InvalidRequest."""
    _check_password(password)
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            "a user's name is made of letters, digits and . _ @ -, 64 at most",
            subject=name,
            hint="choose another name",
        )
    with vault.audited(actor, "create user", name, {"role": str(role)}) as session:
        actor.must(Role.ADMINISTRATOR, "creating a user")
        if session.scalar(select(User).where(User.name == name)):
            raise Conflict("there is a user of this name already", subject=name, hint="choose another name")
        user = User(
            id=vault.new_id(),
            name=name,
            role=str(role),
            password=hasher.hash(password),
            enabled=True,
            created=vault.clock.now(),
        )
        session.add(user)
        return user


def change_user(
    vault: Vault,
    actor: Actor,
    user_id: str,
    *,
    role: Role | None = None,
    enabled: bool | None = None,
    password: str | None = None,
) -> User:
    """Raises Forbidden, NotFound, Conflict. A changed role, password or a disabling ends the user's sessions."""
    if password is not None:
        _check_password(password)
    told = {
        "role": str(role) if role else None,
        "enabled": enabled,
        "password": "changed" if password else None,
    }
    with vault.audited(
        actor, "change user", user_id, {k: v for k, v in told.items() if v is not None}
    ) as session:
        mine = actor.user == user_id
        if not (mine and role is None and enabled is None):
            actor.must(Role.ADMINISTRATOR, "changing a user")
        user = _user(session, user_id)
        if role is not None:
            user.role = str(role)
        if enabled is not None:
            user.enabled = enabled
        if password is not None:
            user.password = hasher.hash(password)
        session.flush()
        _keep_an_administrator(session, user)
        session.execute(delete(Session).where(Session.user == user.id))
        return user


def delete_user(vault: Vault, actor: Actor, user_id: str) -> None:
    """Raises Forbidden, NotFound, Conflict."""
    with vault.audited(actor, "delete user", user_id) as session:
        actor.must(Role.ADMINISTRATOR, "deleting a user")
        user = _user(session, user_id)
        session.delete(user)
        session.flush()
        _keep_an_administrator(session, user)


def verified(vault: Vault, name: str, password: str, address: str, via: str) -> User:
    """Who has this name and password. Raises Unauthenticated, TooManyAttempts.

    Whatever way one logs in counts for the same limit, and is in the audit.
    """
    who = Actor(name[:64], Role.READER, via, address=address)
    keys = [f"name:{name[:64]}", f"address:{address}"]
    now = vault.clock.now()
    with vault.session() as session:
        session.execute(delete(Attempt).where(Attempt.at < now - ATTEMPTS_IN))
        counts = session.execute(
            select(Attempt.who, func.count(), func.min(Attempt.at))
            .where(Attempt.who.in_(keys))
            .group_by(Attempt.who)
        ).all()
        for _, count, first in counts:
            if count >= ATTEMPTS:
                left = (first + ATTEMPTS_IN - now).total_seconds()
                raise TooManyAttempts(
                    f"{count} wrong passwords in {ATTEMPTS_IN.total_seconds() / 60:.0f} minutes",
                    subject="log-in",
                    hint=f"try again in {max(1, left / 60):.0f} minutes",
                )
        user = session.scalar(select(User).where(User.name == name))
        kept = user.password if user and user.enabled else _NOBODY
    # Out of the transaction: checking a password takes long on purpose.
    right = _right(kept, password) and user is not None and user.enabled
    if not right or user is None:
        with vault.session() as session:
            session.add_all(Attempt(id=vault.new_id(), who=key, at=now) for key in keys)
        vault.note(who, "log in", name[:64], "refused: wrong name or password")
        raise Unauthenticated("the name or the password is wrong", subject="log-in", hint="try again")
    with vault.session() as session:
        session.execute(delete(Attempt).where(Attempt.who == keys[0]))
        _user(session, user.id).seen = now
    vault.note(who, "log in", name, "done")
    return user


def log_in(vault: Vault, name: str, password: str, address: str) -> LoggedIn:
    """A browser's session. Raises Unauthenticated, TooManyAttempts."""
    user = verified(vault, name, password, address, "portal")
    now = vault.clock.now()
    cookie, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    with vault.session() as session:
        session.execute(delete(Session).where(Session.expires < now))
        session.add(
            Session(
                hash=digest(cookie),
                user=user.id,
                csrf=csrf,
                created=now,
                used=now,
                expires=now + SESSION_LIFE,
            )
        )
    return LoggedIn(cookie, csrf, user)


def log_in_program(
    vault: Vault, name: str, password: str, address: str, *, token: str, days: int
) -> tuple[ApiToken, str]:
    """A token of the user's whole role, called `token`, for a program that was given name and password.

    Raises Unauthenticated, TooManyAttempts.
    """
    user = verified(vault, name, password, address, "api")
    role = role_named(user.role)
    return new_token(vault, Actor(user.name, role, "api", user.id, address), token, role, days)


def visitor(vault: Vault, cookie: str, address: str) -> Visitor:
    """Whose session it is. Raises Unauthenticated."""
    now = vault.clock.now()
    with vault.session() as session:
        row = session.get(Session, digest(cookie)) if cookie else None
        user = session.get(User, row.user) if row else None
        if (
            row is None
            or user is None
            or not user.enabled
            or row.expires < now
            or row.used < now - SESSION_IDLE
        ):
            raise Unauthenticated("the session has ended", subject="portal", hint="log in again")
        if now - row.used > timedelta(minutes=1):
            row.used = now
        return Visitor(Actor(user.name, role_named(user.role), "portal", user.id, address), row.csrf)


def log_out(vault: Vault, cookie: str) -> None:
    with vault.session() as session:
        session.execute(delete(Session).where(Session.hash == digest(cookie)))


def new_token(vault: Vault, actor: Actor, name: str, role: Role, days: int | None) -> tuple[ApiToken, str]:
    """The token's row and the token, in clear for this once. Raises Forbidden."""
    secret = "standby_" + secrets.token_urlsafe(32)
    now = vault.clock.now()
    with vault.audited(actor, "create token", name, {"role": str(role)}) as session:
        if not actor.user:
            raise Forbidden("only users have tokens", subject=actor.name, hint="log in as a user")
        actor.must(role, f"a token of a {role}")
        token = ApiToken(
            id=vault.new_id(),
            hash=digest(secret),
            user=actor.user,
            name=name,
            role=str(role),
            created=now,
            expires=now + timedelta(days=days) if days else None,
        )
        session.add(token)
        return token, secret


def delete_token(vault: Vault, actor: Actor, token_id: str) -> None:
    """One's own, or anybody's by an administrator. Raises NotFound."""
    with vault.audited(actor, "delete token", token_id) as session:
        token = session.get(ApiToken, token_id)
        if token is None or (token.user != actor.user and actor.role < Role.ADMINISTRATOR):
            raise NotFound("you have no such token", subject=token_id, hint="Users in the portal lists them")
        session.delete(token)


def bearer(vault: Vault, token: str, address: str) -> Actor:
    """Whose API token it is. Raises Unauthenticated."""
    now = vault.clock.now()
    with vault.session() as session:
        row = session.scalar(select(ApiToken).where(ApiToken.hash == digest(token)))
        user = session.get(User, row.user) if row else None
        if row is None or user is None or not user.enabled or (row.expires is not None and row.expires < now):
            raise Unauthenticated(
                "the API token is unknown or has expired",
                subject="API",
                hint="make one in the portal, under your name, and send it as `Authorization: Bearer TOKEN`",
            )
        if row.used is None or now - row.used > timedelta(minutes=1):
            row.used = now
        return Actor(user.name, min(role_named(row.role), role_named(user.role)), "api", user.id, address)


def _user(session: Transaction, user_id: str) -> User:
    user = session.get(User, user_id) or session.scalar(select(User).where(User.name == user_id))
    if user is None:
        raise NotFound("there is no such user", subject=user_id, hint="Users in the portal lists them")
    return user


def _keep_an_administrator(session: Transaction, user: User) -> None:
    if not session.scalar(
        select(func.count()).select_from(User).where(User.role == str(Role.ADMINISTRATOR), User.enabled)
    ):
        raise Conflict(
            "nobody else is an administrator",
            subject=user.name,
            hint="make another user an administrator first",
        )


def _check_password(password: str) -> None:
    if len(password) < SHORTEST:
        raise InvalidRequest(
            f"a password has {SHORTEST} characters at least", subject="password", hint="choose a longer one"
        )


def _right(kept: str, password: str) -> bool:
    try:
        return hasher.verify(kept, password)
    except (Argon2Error, InvalidHashError):
        return False
