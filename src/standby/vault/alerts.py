"""Alerts: conditions that a person should know of, each told once to every channel, and once more when it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from standby.vault.core import Actor, Vault
from standby.vault.errors import NotFound
from standby.vault.jobs import Role
from standby.vault.observe import Condition
from standby.vault.schema import Alert, Channel, Delivery

Open = Mapping[str, Sequence[Alert]]
"""Alerts that stand, by what they are about."""


def standing(session: Session, keys: Sequence[str]) -> Open:
    """Of all of these at once, for many a `reconcile`."""
    found: dict[str, list[Alert]] = {}
    for one in session.scalars(select(Alert).where(Alert.key.in_(keys), Alert.cleared.is_(None))):
        found.setdefault(one.key, []).append(one)
    return found


def reconcile(
    vault: Vault,
    session: Session,
    key: str,
    subject: str,
    among: frozenset[Condition],
    now: Mapping[Condition, str],
    known: Open | None = None,
) -> None:
    """Raise what is new, clear what has ended, of the kinds `among`. key: the id of what it is about.

    known: what stands, if that was looked up already.
    """
    if known is None:
        known = standing(session, [key])
    open_ones = {kind: one for one in known.get(key, ()) if (kind := Condition(one.kind)) in among}
    for kind, text in now.items():
        if kind in open_ones:
            open_ones[kind].text = text
        else:
            alert = Alert(
                id=vault.new_id(),
                kind=kind.value,
                key=key,
                subject=subject,
                text=text,
                raised=vault.clock.now(),
            )
            session.add(alert)
            _tell(vault, session, alert, "raised")
    for kind, alert in open_ones.items():
        if kind not in now:
            alert.cleared = vault.clock.now()
            _tell(vault, session, alert, "cleared")


def acknowledge(vault: Vault, actor: Actor, alert_id: str) -> Alert:
    """Somebody is at it. Raises NotFound, Forbidden."""
    with vault.audited(actor, "acknowledge alert", alert_id) as session:
        actor.must(Role.OPERATOR, "acknowledging an alert")
        alert = session.get(Alert, alert_id)
        if alert is None:
            raise NotFound("there is no such alert", subject=alert_id, hint="`standby status` lists them")
        alert.acknowledged, alert.acknowledged_by = vault.clock.now(), actor.name
        return alert


def _tell(vault: Vault, session: Session, alert: Alert, what: str) -> None:
    session.flush()
    for channel in session.scalars(select(Channel).where(Channel.enabled)):
        if not channel.kinds or alert.kind in channel.kinds:
            session.add(
                Delivery(
                    id=vault.new_id(), alert=alert.id, channel=channel.id, what=what, due=vault.clock.now()
                )
            )
