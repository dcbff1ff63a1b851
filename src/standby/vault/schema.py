"""The vault's tables. What agents report is kept as they said it, beside the columns that are searched by.

Instants are aware, in UTC. Ids are ULIDs: they sort by the time they were made. Secrets are kept as hashes only, but
for the addresses of alert channels, which are never shown whole.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, Index, MetaData, String, Text
from sqlalchemy import text as sql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator


class Instant(TypeDecorator[datetime]):
    """An aware datetime; SQLite, which has none, keeps it in UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Instant(),
        dict[str, Any]: JSON(),
        list[Any]: JSON(),
        str: Text(),
    }


Id = String(26)


class Site(Base):
    """A named group of hosts that can run each other's machines."""

    __tablename__ = "sites"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    created: Mapped[datetime]


class Host(Base):
    """instance: of the agent's last start. beat: its last heartbeat. skew: seconds that its clock is ahead.
    silent: its silence was told. upkeep: it takes care of the replicas of its site's machines (retention, scrub).
    runs: of recovery, as it reported them."""

    __tablename__ = "hosts"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    site: Mapped[str] = mapped_column(ForeignKey("sites.id"), index=True)
    name: Mapped[str]
    version: Mapped[str] = mapped_column(default="")
    instance: Mapped[str] = mapped_column(default="")
    registered: Mapped[datetime]
    beat: Mapped[datetime | None] = mapped_column(index=True)
    skew: Mapped[float] = mapped_column(default=0.0)
    silent: Mapped[bool] = mapped_column(default=False)
    revoked: Mapped[bool] = mapped_column(default=False)
    upkeep: Mapped[bool] = mapped_column(default=False)
    runs: Mapped[list[Any]] = mapped_column(default=list)


class HostToken(Base):
    """hash: SHA-256 of the token. used: the agent has used it, so older ones of its host may end."""

    __tablename__ = "host_tokens"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    host: Mapped[str] = mapped_column(ForeignKey("hosts.id"), index=True)
    created: Mapped[datetime]
    expires: Mapped[datetime]
    used: Mapped[bool] = mapped_column(default=False)


class RegistrationKey(Base):
    """Opens one registration."""

    __tablename__ = "registration_keys"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    site: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    made_by: Mapped[str]
    created: Mapped[datetime]
    expires: Mapped[datetime]
    used: Mapped[datetime | None]
    host: Mapped[str | None] = mapped_column(ForeignKey("hosts.id"))


class Store(Base):
    """Where replicas go. address: as agents open it; credentials are the agents' own."""

    __tablename__ = "stores"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    address: Mapped[str] = mapped_column(unique=True)
    created: Mapped[datetime]


class PolicyRow(Base):
    """body: a `replication.policy.Policy`. drill_days: a test failover is due every so many days, 0 for never.
    keep: tiers of retention beyond what the body keeps of every point. scrub_days, prove_days: likewise a scrub of
    the replica, a boot proof.
    revision: grows with each change of the body."""

    __tablename__ = "policies"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    body: Mapped[dict[str, Any]]
    drill_days: Mapped[int] = mapped_column(default=90)
    keep: Mapped[list[Any]] = mapped_column(default=list)
    prove_days: Mapped[int] = mapped_column(default=0)
    scrub_days: Mapped[int] = mapped_column(default=7)
    revision: Mapped[int] = mapped_column(default=1)
    created: Mapped[datetime]


class PlanRow(Base):
    """A recovery plan. document: TOML, as docs/plans.md has it. host: that runs its machines."""

    __tablename__ = "plans"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    document: Mapped[str]
    host: Mapped[str] = mapped_column(ForeignKey("hosts.id"))
    created: Mapped[datetime]
    changed: Mapped[datetime]


class Machine(Base):
    """A virtual machine of a site; `host` has it now. seen: as its agent described it last."""

    __tablename__ = "machines"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    site: Mapped[str] = mapped_column(ForeignKey("sites.id"))
    host: Mapped[str] = mapped_column(ForeignKey("hosts.id"), index=True)
    name: Mapped[str] = mapped_column(index=True)
    uuid: Mapped[str] = mapped_column(default="")
    present: Mapped[bool] = mapped_column(default=True)
    running: Mapped[bool] = mapped_column(default=False)
    seen: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created: Mapped[datetime]

    __table_args__ = (
        Index("ix_machines_uuid", "site", "uuid"),
        Index("ix_machines_host_name", "host", "name"),
    )


class Relationship(Base):
    """A machine and its replica, as the agent that replicates it reports them. told: the agent's id for it.

    superseded: another agent goes on with the machine, as after a failover; this one is fenced or sealed.

    standing: a `link.messages.Standing`. policy: the one it was given; revision: of that, when it was given.
    ended: not reported any more, its machine is protected no longer from there. level: 0 not applicable to 3 critical.
    sampled: when its last `Sample` was taken. drilled: the last test failover that succeeded.
    """

    __tablename__ = "relationships"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    told: Mapped[str]
    machine: Mapped[str] = mapped_column(ForeignKey("machines.id"), index=True)
    host: Mapped[str] = mapped_column(ForeignKey("hosts.id"), index=True)
    policy: Mapped[str | None] = mapped_column(ForeignKey("policies.id"))
    revision: Mapped[int] = mapped_column(default=0)
    store: Mapped[str]
    replica: Mapped[str]
    replica_id: Mapped[str] = mapped_column(index=True)
    state: Mapped[str]
    level: Mapped[int] = mapped_column(index=True)
    rpo: Mapped[float | None]
    newest: Mapped[datetime | None]
    queued_bytes: Mapped[int]
    standing: Mapped[dict[str, Any]]
    reported: Mapped[datetime]
    since: Mapped[datetime]
    sampled: Mapped[datetime | None]
    drilled: Mapped[datetime | None]
    drill_told: Mapped[bool] = mapped_column(default=False)
    ended: Mapped[bool] = mapped_column(default=False, index=True)
    superseded: Mapped[bool] = mapped_column(default=False)

    __table_args__ = (Index("uq_relationships_told", "host", "told", unique=True),)


class Sample(Base):
    """How a relationship stood at one time: for charts."""

    __tablename__ = "samples"

    relationship: Mapped[str] = mapped_column(ForeignKey("relationships.id"), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True, index=True)
    rpo: Mapped[float | None]
    queued_bytes: Mapped[int]
    stored: Mapped[int]
    churn: Mapped[int]
    latency: Mapped[float]


class Point(Base):
    """A recovery point that an agent told of. It may be merged away since: the store knows, not the vault."""

    __tablename__ = "points"

    relationship: Mapped[str] = mapped_column(ForeignKey("relationships.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    consistency: Mapped[str]
    stored: Mapped[int]


class Job(Base):
    """Something that an operator watches. kind, state: `vault.jobs`. parts: what is to be done by which host, in order;
    part: the one that is next or under way. lease: grows with each handing over of a part; held: until when it is
    held. after: not before this instant. machine, host: what it is about, if anything. error: a `Refused`.
    exclusive: one at a time acts on a machine so; the others never stand in the way of anything.
    observed: nobody is ordered; it follows what the agent reports. alerted: nothing is left to alert of its failure.
    once: the idempotency key of the call that began it: with `by`, there is one.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    kind: Mapped[str] = mapped_column(index=True)
    state: Mapped[str]
    machine: Mapped[str | None] = mapped_column(ForeignKey("machines.id"), index=True)
    host: Mapped[str | None] = mapped_column(ForeignKey("hosts.id"))
    subject: Mapped[str]
    params: Mapped[dict[str, Any]] = mapped_column(default=dict)
    parts: Mapped[list[Any]] = mapped_column(default=list)
    part: Mapped[int] = mapped_column(default=0)
    lease: Mapped[int] = mapped_column(default=0)
    held: Mapped[datetime | None]
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[dict[str, Any] | None]
    waiting: Mapped[str] = mapped_column(default="")
    cancel: Mapped[bool] = mapped_column(default=False)
    observed: Mapped[bool] = mapped_column(default=False)
    exclusive: Mapped[bool] = mapped_column(default=True)
    alerted: Mapped[bool] = mapped_column(default=False)
    by: Mapped[str]
    once: Mapped[str | None] = mapped_column(String(255))
    created: Mapped[datetime]
    began: Mapped[datetime | None]
    ended: Mapped[datetime | None] = mapped_column(index=True)

    __table_args__ = (
        Index("ix_jobs_next", "host", "state"),
        Index("uq_jobs_once", "by", "once", unique=True),
        # No two jobs act on one machine at once, whichever process of the vault takes them in.
        Index(
            "uq_jobs_active_machine",
            "machine",
            unique=True,
            sqlite_where=sql("machine IS NOT NULL AND ended IS NULL AND exclusive"),
            postgresql_where=sql("machine IS NOT NULL AND ended IS NULL AND exclusive"),
        ),
        Index(
            "uq_jobs_active_kind",
            "machine",
            "kind",
            unique=True,
            sqlite_where=sql("machine IS NOT NULL AND ended IS NULL AND NOT exclusive"),
            postgresql_where=sql("machine IS NOT NULL AND ended IS NULL AND NOT exclusive"),
        ),
    )


class Task(Base):
    """One line of a job. part: of the job; ordinal: within it. A `link.messages.TaskReport`."""

    __tablename__ = "tasks"

    job: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    part: Mapped[int] = mapped_column(primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    state: Mapped[str]
    began: Mapped[datetime | None]
    ended: Mapped[datetime | None]
    progress: Mapped[float | None]
    detail: Mapped[str] = mapped_column(default="")


class Event(Base):
    """Something that happened. severity: `information`, `warning` or `critical`."""

    __tablename__ = "events"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    severity: Mapped[str]
    kind: Mapped[str]
    machine: Mapped[str | None] = mapped_column(ForeignKey("machines.id"), index=True)
    host: Mapped[str | None] = mapped_column(ForeignKey("hosts.id"), index=True)
    subject: Mapped[str]
    text: Mapped[str]


class Alert(Base):
    """A condition that a person should know of, until it ends. key: what it is about; one of
    a kind is open at a time."""

    __tablename__ = "alerts"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    kind: Mapped[str]
    key: Mapped[str]
    subject: Mapped[str]
    text: Mapped[str]
    raised: Mapped[datetime] = mapped_column(index=True)
    cleared: Mapped[datetime | None]
    acknowledged: Mapped[datetime | None]
    acknowledged_by: Mapped[str] = mapped_column(default="")

    __table_args__ = (
        Index(
            "uq_alerts_open",
            "kind",
            "key",
            unique=True,
            sqlite_where=sql("cleared IS NULL"),
            postgresql_where=sql("cleared IS NULL"),
        ),
    )


class Channel(Base):
    """Where alerts are told. target: a webhook's URL or an apprise URL, which may hold a secret."""

    __tablename__ = "channels"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    target: Mapped[str]
    kinds: Mapped[list[Any]] = mapped_column(default=list)
    enabled: Mapped[bool] = mapped_column(default=True)
    created: Mapped[datetime]


class Delivery(Base):
    """An alert on its way to a channel. what: `raised` or `cleared`."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    alert: Mapped[str] = mapped_column(ForeignKey("alerts.id"))
    channel: Mapped[str] = mapped_column(ForeignKey("channels.id", ondelete="CASCADE"))
    what: Mapped[str]
    attempts: Mapped[int] = mapped_column(default=0)
    due: Mapped[datetime | None] = mapped_column(index=True)
    done: Mapped[datetime | None]
    error: Mapped[str] = mapped_column(default="")


class User(Base):
    """password: an Argon2id hash."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    password: Mapped[str]
    enabled: Mapped[bool] = mapped_column(default=True)
    created: Mapped[datetime]
    seen: Mapped[datetime | None]


class Session(Base):
    """A browser's. hash: SHA-256 of the cookie. csrf: what its forms must bring."""

    __tablename__ = "sessions"

    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    csrf: Mapped[str]
    created: Mapped[datetime]
    used: Mapped[datetime]
    expires: Mapped[datetime]


class ApiToken(Base):
    """A program's. role: never more than its user's."""

    __tablename__ = "api_tokens"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    role: Mapped[str]
    created: Mapped[datetime]
    expires: Mapped[datetime | None]
    used: Mapped[datetime | None]


class Attempt(Base):
    """A failed log-in, for the rate limit. who: the name or the address."""

    __tablename__ = "attempts"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    who: Mapped[str] = mapped_column(index=True)
    at: Mapped[datetime] = mapped_column(index=True)


class Audit(Base):
    """Who changed what. via: `portal`, `api`, `agent` or `console`. outcome: `done` or why not."""

    __tablename__ = "audit"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    at: Mapped[datetime] = mapped_column(index=True)
    who: Mapped[str]
    via: Mapped[str]
    address: Mapped[str] = mapped_column(default="")
    action: Mapped[str]
    target: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)
    outcome: Mapped[str]


class Setting(Base):
    __tablename__ = "settings"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
