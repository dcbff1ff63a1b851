"""A vault from what is in the stores: every replica becomes a machine that can be failed over.

The hosts' agents register again and tell of theirs; what they continue is then theirs. The rest had
agents that are gone.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from standby.errors import StandbyError
from standby.link.messages import Reason, Seen, SeenDisk, Standing
from standby.objects.address import open_store
from standby.objects.base import ObjectStore
from standby.replica.journal import Place, ReplicaLog, newest_machine, read_settled, replica_names
from standby.replication.health import Level
from standby.replication.policy import Policy
from standby.vault import catalogue, hosts
from standby.vault.core import Actor, Vault
from standby.vault.errors import Conflict
from standby.vault.jobs import Role
from standby.vault.machines import UNATTENDED
from standby.vault.schema import Host, Machine, Point, Relationship, Site

_HOST: Final = "no host"
_MOST_POINTS: Final = 1000


class Found(NamedTuple):
    """A replica of the store. new: the vault did not know it. problem: why it could not be taken in, "" if it was."""

    replica: str
    machine: str = ""
    points: int = 0
    newest: str = ""
    new: bool = False
    problem: str = ""


def rebuild(vault: Vault, actor: Actor, address: str, site_name: str) -> list[Found]:
    """Take in all replicas of a store, which is only read; what is known already stays as it is.

    Needs no key: of an encrypted replica the machine is known by the replica's name. Raises Forbidden, and what opening
    the store meets.
    """
    actor.must(Role.ADMINISTRATOR, "rebuilding the vault")
    store = open_store(address)
    names = replica_names(store)
    # Either may be there already.
    with suppress(Conflict):
        catalogue.new_store(vault, actor, store.url, store.url)
    with suppress(Conflict):
        hosts.new_site(vault, actor, site_name)
    return [_take_in(vault, actor, store, name, site_name) for name in names]


def _take_in(vault: Vault, actor: Actor, store: ObjectStore, name: str, site_name: str) -> Found:
    try:
        log, _ = read_settled(Place(store, name))
    except StandbyError as error:
        return Found(name, problem=str(error))
    points = log.points
    described = newest_machine(log.records)
    machine_name = described.name if described else log.head.name
    newest = points[-1].at if points else ""
    found = Found(name, machine_name, len(points), newest)
    replica_id = str(log.head.replica)
    with vault.audited(actor, "take in replica", f"{store.url} {name}") as session:
        if session.scalar(select(Relationship.id).where(Relationship.replica_id == replica_id).limit(1)):
            return found
        site = hosts.find_site(session, site_name)
        _add(vault, session, store, log, site, machine_name, described.uuid if described else "")
        return found._replace(new=True)


def _add(
    vault: Vault, session: Session, store: ObjectStore, log: ReplicaLog, site: Site, name: str, uuid: str
) -> None:
    now = vault.clock.now()
    head, points = log.head, log.points
    disks = points[-1].disks if points else ()
    machine = Machine(
        id=vault.new_id(),
        site=site.id,
        host=_nowhere(vault, session, site),
        name=name,
        uuid=uuid,
        present=False,
        running=False,
        seen=msgspec.to_builtins(
            Seen(
                name=name,
                uuid=uuid,
                running=False,
                disks=tuple(SeenDisk(id=disk.id, size=disk.size) for disk in disks),
                problem="it was taken in from a store: no agent tells of it",
            )
        ),
        created=now,
    )
    session.add(machine)
    session.flush()
    newest = datetime.fromisoformat(points[-1].at).astimezone(UTC) if points else None
    standing = Standing(
        id=str(head.replica),
        machine=name,
        store=store.url,
        replica=log.place.name,
        replica_id=str(head.replica),
        state=UNATTENDED,
        policy=Policy(),
        level=str(Level.WARNING),
        reasons=(
            Reason(
                level=str(Level.WARNING),
                text="no agent replicates it; if its host is gone, fail it over to another one",
            ),
        ),
        newest_at=newest.isoformat() if newest else "",
        encrypted=head.encrypted,
    )
    row = Relationship(
        id=vault.new_id(),
        told=standing.id,
        machine=machine.id,
        host=machine.host,
        store=standing.store,
        replica=standing.replica,
        replica_id=standing.replica_id,
        state=standing.state,
        level=int(Level.WARNING),
        rpo=None,
        newest=newest,
        queued_bytes=0,
        standing=msgspec.to_builtins(standing),
        reported=now,
        since=now,
    )
    session.add(row)
    session.flush()
    session.add_all(
        Point(
            relationship=row.id,
            seq=point.seq,
            at=datetime.fromisoformat(point.at).astimezone(UTC),
            consistency=point.consistency,
            stored=sum(log.size for disk in point.disks for log in disk.logs),
        )
        for point in points[-_MOST_POINTS:]
    )


def _nowhere(vault: Vault, session: Session, site: Site) -> str:
    """The host of machines that have none: never shown, as if it were revoked."""
    host = session.scalar(select(Host).where(Host.site == site.id, Host.name == _HOST))
    if host is None:
        host = Host(
            id=vault.new_id(),
            site=site.id,
            name=_HOST,
            registered=vault.clock.now(),
            revoked=True,
        )
        session.add(host)
        session.flush()
    return host.id
