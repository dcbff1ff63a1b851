"""Alerts on their way out: webhooks and whatever apprise knows, tried again for a day."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, Final, NamedTuple

import apprise
import httpx
from sqlalchemy import select

from standby.replication.retry import wait_seconds
from standby.vault.core import Vault
from standby.vault.schema import Alert, Channel, Delivery

log = logging.getLogger(__name__)

TRIED_AGAIN: Final = 51
"""Times, after the waits of `replication.retry`: about a day; then it is given up."""

_LIMIT: Final = 10.0


class _Due(NamedTuple):
    delivery: str
    what: str
    alert: Alert
    channel: Channel


def deliver(vault: Vault, *, most: int = 20) -> int:
    """Send what is due; returns how many were. Each is marked before it is sent: two processes do not both send it."""
    now = vault.clock.now()
    with vault.session() as session:
        due = []
        for row in session.scalars(
            select(Delivery).where(Delivery.due <= now).limit(most).with_for_update(skip_locked=True)
        ):
            alert, channel = session.get_one(Alert, row.alert), session.get_one(Channel, row.channel)
            due.append(_Due(row.id, row.what, alert, channel))
            row.attempts += 1
            wait = timedelta(seconds=wait_seconds(row.attempts))
            row.due = now + wait if row.attempts <= TRIED_AGAIN else None
    sent = 0
    for one in due:
        error = send(one.channel.kind, one.channel.target, _message(one))
        with vault.session() as session:
            delivery = session.get(Delivery, one.delivery)
            if delivery is None:
                continue
            delivery.error = error
            if not error:
                delivery.done, delivery.due = vault.clock.now(), None
                sent += 1
            else:
                log.warning("channel %s: %s", one.channel.name, error)
    return sent


def send(kind: str, target: str, message: dict[str, Any]) -> str:
    """ "" if it was taken, else why not, without the target: it may hold a secret."""
    if kind == "webhook":
        try:
            answer = httpx.post(target, json=message, timeout=_LIMIT)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"the webhook does not answer ({type(error).__name__})"
        return "" if answer.is_success else f"the webhook answered {answer.status_code}"
    service = apprise.Apprise()
    if not service.add(target):
        return "apprise does not know this URL"
    taken = service.notify(title=str(message["title"]), body=str(message["text"]))
    return "" if taken else "the service did not take it"


def _message(one: _Due) -> dict[str, Any]:
    over = one.what == "cleared"
    title = f"standby: {one.alert.subject}: {one.alert.kind.replace('-', ' ')}" + (" is over" if over else "")
    return {
        "title": title,
        "text": one.alert.text,
        "kind": one.alert.kind,
        "subject": one.alert.subject,
        "what": one.what,
        "raised": one.alert.raised.isoformat(),
        "cleared": one.alert.cleared.isoformat() if one.alert.cleared else None,
        "alert": one.alert.id,
    }
