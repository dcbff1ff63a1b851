"""What time alone brings about: silent hosts, lost jobs, overdue drills, policies that are still to be spread.

Any process of the vault may do it, at any time, and twice: each change is made once, by the state that it finds.
"""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from standby.errors import Recoverable
from standby.vault import alerts, catalogue, notify, queue, upkeep
from standby.vault.core import Actor, Vault
from standby.vault.events import Severity, add_event
from standby.vault.hosts import SILENT
from standby.vault.jobs import JobState, Role
from standby.vault.observe import Condition
from standby.vault.overview import overdue
from standby.vault.schema import Audit, Event, Host, Job, PolicyRow, Relationship, Sample

log = logging.getLogger(__name__)

EVERY: Final = 5.0

KEPT: Final = (
    (Sample.at, timedelta(days=14)),
    (Event.at, timedelta(days=365)),
    (Audit.at, timedelta(days=3 * 365)),
)
"""How long what is only looked at is kept."""

_THE_VAULT: Final = Actor("the vault", Role.ADMINISTRATOR, "console")


class Ticker:
    """Does it every few seconds in a thread of its own, until it is closed."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="standby-ticks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            try:
                tick(self._vault)
                notify.deliver(self._vault)
            except Recoverable as error:
                log.warning("not now: %s", error)


def tick(vault: Vault) -> None:
    """All that is due now. Raises DatabaseAway."""
    now = vault.clock.now()
    with vault.session() as session:
        silent = session.scalars(
            select(Host)
            .where(Host.revoked.is_(False), Host.silent.is_(False), Host.beat < now - SILENT)
            .with_for_update(skip_locked=True)
        ).all()
        for host in silent:
            host.silent = True
            since = f"{host.beat:%Y-%m-%d %H:%M:%S} UTC"
            text = (
                f"The agent of {host.name} has not reported since {since}. Its machines may be replicated all the same:"
                " that needs no vault"
            )
            add_event(vault, session, Severity.WARNING, "host-silent", host.name, text, host=host.id)
            alerts.reconcile(
                vault,
                session,
                host.id,
                host.name,
                frozenset({Condition.HOST_SILENT}),
                {Condition.HOST_SILENT: text},
            )
    with vault.session() as session:
        for job in queue.expire(vault, session):
            upkeep.give_away(session, job)
    with vault.session() as session:
        upkeep.begin_due(vault, session, _THE_VAULT)
    with vault.session() as session:
        _failed_failovers(vault, session)
        late = {one.machine.id: one for one in overdue(session, now)}
        told = select(Relationship).where(
            ~Relationship.ended, Relationship.drill_told | Relationship.machine.in_(late)
        )
        for row in session.scalars(told):
            one = late.get(row.machine)
            conditions = {}
            if one:
                last = f"{row.drilled:%Y-%m-%d}" if row.drilled else "never"
                conditions[Condition.DRILL_OVERDUE] = (
                    f"its last successful test failover was {last}; one was due on {one.due:%Y-%m-%d}"
                )
            if one or row.drill_told:
                subject = one.machine.name if one else ""
                alerts.reconcile(
                    vault, session, row.id, subject, frozenset({Condition.DRILL_OVERDUE}), conditions
                )
                row.drill_told = one is not None
    with vault.session() as session:
        for policy in session.scalars(select(PolicyRow)):
            catalogue.spread(vault, session, _THE_VAULT, policy)
    with vault.session() as session:
        for at, age in KEPT:
            session.execute(delete(at.class_).where(at < now - age))


def _failed_failovers(vault: Vault, session: Session) -> None:
    """Alert of failovers that failed, until another job of the machine's has succeeded since."""
    kinds = ("failover", "planned-failover", "test-failover")
    for job in session.scalars(
        select(Job).where(Job.kind.in_(kinds), Job.state == JobState.FAILED, Job.alerted.is_(False))
    ):
        later = session.scalars(
            select(Job.id).where(
                Job.machine == job.machine,
                Job.kind.in_(kinds),
                Job.id > job.id,
                Job.state == JobState.SUCCEEDED,
            )
        ).first()
        cause = (job.error or {}).get("cause", "")
        text = {Condition.FAILOVER_FAILED: f"{job.kind} failed: {cause}"} if later is None else {}
        alerts.reconcile(
            vault, session, job.machine or job.id, job.subject, frozenset({Condition.FAILOVER_FAILED}), text
        )
        if later is not None:
            job.alerted = True
