"""What every service of the vault works with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sqlalchemy.orm import Session
from ulid import ULID

from standby.clock import Clock
from standby.errors import StandbyError
from standby.vault.database import Database
from standby.vault.errors import Forbidden
from standby.vault.jobs import Role
from standby.vault.schema import Audit

CONSOLE: Final = "console"


class Actor(NamedTuple):
    """Who does something. via: `portal`, `api`, `agent` or `console`. user: the id; "" for who has none."""

    name: str
    role: Role
    via: str
    user: str = ""
    address: str = ""

    def must(self, role: Role, what: str) -> None:
        """Raises Forbidden unless the actor's role is at least `role`."""
        if self.role < role:
            raise Forbidden(
                f"{self.name} is {self.role}, and this is for {role}s",
                subject=what,
                hint="ask an administrator for the role, or to do it",
            )


class Vault(NamedTuple):
    database: Database
    clock: Clock

    def new_id(self) -> str:
        """A ULID of now."""
        return str(ULID.from_datetime(self.clock.now()))

    @contextmanager
    def session(self) -> Iterator[Session]:
        with self.database.session() as session:
            yield session

    @contextmanager
    def audited(
        self, actor: Actor, action: str, target: str, detail: dict[str, Any] | None = None
    ) -> Iterator[Session]:
        """A transaction of a change that an actor makes. It is in the audit if it is done, and if it is refused too."""
        try:
            with self.session() as session:
                yield session
                session.add(self._entry(actor, action, target, detail or {}, "done"))
        except StandbyError as error:
            with self.session() as session:
                session.add(self._entry(actor, action, target, detail or {}, f"refused: {error.cause}"))
            raise

    def note(self, actor: Actor, action: str, target: str, outcome: str) -> None:
        """Something that changed nothing and yet belongs into the audit."""
        with self.session() as session:
            session.add(self._entry(actor, action, target, {}, outcome))

    def _entry(self, actor: Actor, action: str, target: str, detail: dict[str, Any], outcome: str) -> Audit:
        return Audit(
            id=self.new_id(),
            at=self.clock.now(),
            who=actor.name,
            via=actor.via,
            address=actor.address,
            action=action,
            target=target,
            detail=detail,
            outcome=outcome,
        )
