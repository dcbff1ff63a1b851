"""What happened, for people to read."""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy.orm import Session

from standby.vault.core import Vault
from standby.vault.schema import Event


class Severity(StrEnum):
    INFORMATION = "information"
    WARNING = "warning"
    CRITICAL = "critical"


def add_event(
    vault: Vault,
    session: Session,
    severity: Severity,
    kind: str,
    subject: str,
    text: str,
    *,
    machine: str | None = None,
    host: str | None = None,
) -> None:
    """subject: the name of the machine or host that it is about, as it was then."""
    session.add(
        Event(
            id=vault.new_id(),
            at=vault.clock.now(),
            severity=severity.value,
            kind=kind,
            subject=subject,
            text=text,
            machine=machine,
            host=host,
        )
    )
