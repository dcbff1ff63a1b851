"""What an administrator sets up: stores, policies, channels of alerts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from standby.errors import InvalidRequest
from standby.replica.retention import parse_tier
from standby.replication.policy import Policy
from standby.vault import queue
from standby.vault.core import Actor, Vault
from standby.vault.errors import Conflict, NotFound
from standby.vault.jobs import Role
from standby.vault.machines import subject_of
from standby.vault.observe import Condition
from standby.vault.schema import Channel, Delivery, Machine, PolicyRow, Relationship, Store

CHANNEL_KINDS = ("webhook", "apprise")


def new_store(vault: Vault, actor: Actor, name: str, address: str) -> Store:
    """Raises Forbidden, Conflict. Whether it can be used is told by the agents that use it."""
    with vault.audited(actor, "create store", name, {"address": address}) as session:
        actor.must(Role.ADMINISTRATOR, "naming a store")
        if "@" in address.partition("://")[2].partition("/")[0]:
            raise InvalidRequest(
                "an address holds no credentials: each agent has its own",
                subject=name,
                hint="give the agents' hosts the cloud's usual environment or files (docs/operator-guide.md)",
            )
        if session.scalar(select(Store).where((Store.name == name) | (Store.address == address))):
            raise Conflict("this name or address is in use", subject=name, hint="see Infrastructure")
        store = Store(id=vault.new_id(), name=name, address=address, created=vault.clock.now())
        session.add(store)
        return store


def delete_store(vault: Vault, actor: Actor, store_id: str) -> None:
    """The name only: what is in the store stays. Raises Conflict while machines replicate into it."""
    with vault.audited(actor, "delete store", store_id) as session:
        actor.must(Role.ADMINISTRATOR, "deleting a store")
        store = find_store(session, store_id)
        if session.scalar(
            select(Relationship.id).where(Relationship.store == store.address, Relationship.ended.is_(False))
        ):
            raise Conflict(
                "machines replicate into it", subject=store.name, hint="disable their protection first"
            )
        session.delete(store)


def find_store(session: Session, key: str) -> Store:
    store = session.get(Store, key) or session.scalar(select(Store).where(Store.name == key))
    if store is None:
        raise NotFound("there is no such store", subject=key, hint="Infrastructure in the portal lists them")
    return store


def find_policy(session: Session, key: str) -> PolicyRow:
    policy = session.get(PolicyRow, key) or session.scalar(select(PolicyRow).where(PolicyRow.name == key))
    if policy is None:
        raise NotFound("there is no such policy", subject=key, hint="`standby policy list` lists them")
    return policy


def new_policy(
    vault: Vault,
    actor: Actor,
    name: str,
    body: dict[str, Any],
    drill_days: int = 90,
    *,
    keep: Sequence[str] = (),
    scrub_days: int = 7,
    prove_days: int = 0,
) -> PolicyRow:
    """keep: tiers beyond what the body keeps of every point. Raises Forbidden, Conflict, InvalidRequest."""
    kept = msgspec.to_builtins(policy_of(body))
    _check_tiers(keep)
    with vault.audited(actor, "create policy", name, body) as session:
        actor.must(Role.ADMINISTRATOR, "creating a policy")
        if session.scalar(select(PolicyRow).where(PolicyRow.name == name)):
            raise Conflict("there is a policy of this name already", subject=name, hint="choose another name")
        row = PolicyRow(
            id=vault.new_id(),
            name=name,
            body=kept,
            drill_days=drill_days,
            keep=list(keep),
            scrub_days=scrub_days,
            revision=1,
            created=vault.clock.now(),
        )
        session.add(row)
        return row


def change_policy(
    vault: Vault,
    actor: Actor,
    policy_id: str,
    body: dict[str, Any],
    drill_days: int | None = None,
    *,
    keep: Sequence[str] | None = None,
    scrub_days: int | None = None,
    prove_days: int | None = None,
) -> tuple[PolicyRow, int]:
    """And have it take effect on its machines, by a job each. Returns the policy and how many jobs were begun.

    Machines with a job under way take it when they are next without one (`ticks`). Raises NotFound, InvalidRequest.
    """
    with vault.audited(actor, "change policy", policy_id, body) as session:
        actor.must(Role.ADMINISTRATOR, "changing a policy")
        row = find_policy(session, policy_id)
        changed = msgspec.to_builtins(policy_of({**row.body, **body}))
        if changed != row.body:
            row.body, row.revision = changed, row.revision + 1
        if drill_days is not None:
            row.drill_days = drill_days
        if scrub_days is not None:
            row.scrub_days = scrub_days
        if prove_days is not None:
            row.prove_days = prove_days
        if keep is not None:
            _check_tiers(keep)
            row.keep = list(keep)
        session.flush()
        return row, spread(vault, session, actor, row)


def spread(vault: Vault, session: Session, actor: Actor, policy: PolicyRow) -> int:
    """Begin a job for each machine that has an older revision of the policy and no job under way."""
    begun = 0
    for row in session.scalars(
        select(Relationship).where(
            Relationship.policy == policy.id,
            Relationship.revision != policy.revision,
            Relationship.ended.is_(False),
        )
    ):
        machine = session.get_one(Machine, row.machine)
        try:
            queue.add(
                vault,
                session,
                actor,
                "set-policy",
                subject_of(session, machine),
                machine,
                {"policy": policy.body, "policy_id": policy.id, "policy_revision": policy.revision},
            )
        except Conflict:
            continue
        row.revision = policy.revision
        begun += 1
    return begun


def delete_policy(vault: Vault, actor: Actor, policy_id: str) -> None:
    with vault.audited(actor, "delete policy", policy_id) as session:
        actor.must(Role.ADMINISTRATOR, "deleting a policy")
        row = find_policy(session, policy_id)
        if session.scalar(
            select(Relationship.id).where(Relationship.policy == row.id, Relationship.ended.is_(False))
        ):
            raise Conflict(
                "machines are protected under it", subject=row.name, hint="give them another one first"
            )
        for old in session.scalars(select(Relationship).where(Relationship.policy == row.id)):
            old.policy = None
        session.flush()
        session.delete(row)


def policy_of(body: dict[str, Any]) -> Policy:
    """Raises InvalidRequest, PolicyRefused."""
    try:
        return msgspec.convert(body, Policy)
    except msgspec.ValidationError as error:
        raise InvalidRequest(
            str(error), subject="policy", hint="see docs/operator-guide.md for what a policy holds"
        ) from error


def _check_tiers(keep: Sequence[str]) -> None:
    for tier in keep:
        parse_tier(tier)


def new_channel(vault: Vault, actor: Actor, name: str, kind: str, target: str, kinds: list[str]) -> Channel:
    """Raises Forbidden, Conflict, InvalidRequest."""
    if kind not in CHANNEL_KINDS:
        raise InvalidRequest(
            f"there is no channel {kind!r}", subject=name, hint=f"choose {' or '.join(CHANNEL_KINDS)}"
        )
    if kind == "webhook" and not target.startswith(("https://", "http://")):
        raise InvalidRequest("a webhook is a http or https URL", subject=name, hint="give one")
    if unknown := sorted(set(kinds).difference(Condition)):
        raise InvalidRequest(
            f"there is no alert {unknown[0]!r}", subject=name, hint=f"choose of {', '.join(Condition)}"
        )
    with vault.audited(actor, "create channel", name, {"kind": kind}) as session:
        actor.must(Role.ADMINISTRATOR, "creating a channel")
        if session.scalar(select(Channel).where(Channel.name == name)):
            raise Conflict(
                "there is a channel of this name already", subject=name, hint="choose another name"
            )
        channel = Channel(
            id=vault.new_id(),
            name=name,
            kind=kind,
            target=target,
            kinds=kinds,
            enabled=True,
            created=vault.clock.now(),
        )
        session.add(channel)
        return channel


def delete_channel(vault: Vault, actor: Actor, channel_id: str) -> None:
    with vault.audited(actor, "delete channel", channel_id) as session:
        actor.must(Role.ADMINISTRATOR, "deleting a channel")
        channel = session.get(Channel, channel_id)
        if channel is None:
            raise NotFound(
                "there is no such channel", subject=channel_id, hint="Alerts in the portal lists them"
            )
        session.execute(delete(Delivery).where(Delivery.channel == channel.id))
        session.delete(channel)
