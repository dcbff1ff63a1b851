"""What the REST API takes and gives. Instants are RFC 3339 in UTC, sizes bytes, durations seconds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from standby.vault.access import NAME
from standby.vault.catalogue import CHANNEL_KINDS
from standby.vault.jobs import KINDS, Role
from standby.vault.observe import Condition

_ROLES: Final[dict[str, Any]] = {"enum": [str(one) for one in Role]}


Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""What people call a thing: on one line."""


class Taken(BaseModel):
    """Base of request bodies: what is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class Given(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Site(Given):
    id: str
    name: str
    created: datetime


class NewSite(Taken):
    name: Name


class Host(Given):
    """beat: the last heartbeat. skew: seconds that its clock is ahead of the vault's."""

    id: str
    site: str
    name: str
    version: str
    registered: datetime
    beat: datetime | None
    skew: float
    silent: bool
    revoked: bool
    upkeep: bool
    runs: list[dict[str, Any]]


class HostChange(Taken):
    upkeep: bool = Field(description="It takes care of the replicas of its site's machines.")


class NewKey(Taken):
    site: str = Field(description="Its id or name.")
    days: float = Field(5, gt=0, le=30)


class RegistrationKey(Given):
    id: str
    site: str
    made_by: str
    created: datetime
    expires: datetime
    used: datetime | None
    host: str | None


class VaultKeyFile(Given):
    """The content of a vault key file: keep it secret; it is told this once only."""

    vault: str
    site: str
    key: str
    expires: str
    authority: str


class Store(Given):
    id: str
    name: str
    address: str
    created: datetime


class NewStore(Taken):
    name: Name
    address: str = Field(min_length=1, max_length=1000, description="As agents open it, without credentials.")


class Policy(Given):
    id: str
    name: str
    body: dict[str, Any]
    drill_days: int
    keep: list[str]
    scrub_days: int
    prove_days: int
    revision: int
    created: datetime


class NewPolicy(Taken):
    name: Name
    body: dict[str, Any] = Field(default_factory=dict, description="What differs from the defaults.")
    drill_days: int = Field(90, ge=0, le=3650)
    keep: list[str] = Field(default_factory=list, description="Tiers of retention, as 1h:3d and 1d:30d.")
    scrub_days: int = Field(7, ge=0, le=3650)
    prove_days: int = Field(0, ge=0, le=3650, description="Days between two boot proofs, 0 for none.")


class PolicyChange(Taken):
    body: dict[str, Any] = Field(default_factory=dict)
    drill_days: int | None = Field(None, ge=0, le=3650)
    keep: list[str] | None = None
    scrub_days: int | None = Field(None, ge=0, le=3650)
    prove_days: int | None = Field(None, ge=0, le=3650)


class PolicySpread(Given):
    """jobs: machines on which the change is on its way."""

    policy: Policy
    jobs: int


class Plan(Given):
    """document: TOML. host: that runs its machines."""

    id: str
    name: str
    document: str
    host: str
    created: datetime
    changed: datetime


class NewPlan(Taken):
    """Its name is the document's. A plan of this name is replaced."""

    document: str = Field(min_length=1, max_length=200_000, description="TOML, as docs/plans.md has it.")
    host: str = Field(max_length=200, description="The host that runs its machines: id or name.")


class NewRun(Taken):
    """kind: test, unplanned or planned. confirm: the plan's name, unless it is a test."""

    kind: str = Field(max_length=20)
    confirm: str = Field("", max_length=200)
    source_down: bool = Field(False, description="A person made sure that the source machines are off.")


class MachineRow(Given):
    """level: of the health, 0 not applicable to 3 critical; null if it is not protected."""

    id: str
    name: str
    site: str
    host: str
    host_name: str
    running: bool
    present: bool
    protected: bool
    state: str | None
    level: int | None
    health: str | None
    rpo: float | None
    newest: datetime | None
    queued_bytes: int | None
    job: str | None


class MachinePage(Given):
    """next: the offset of the next page; null on the last."""

    machines: list[MachineRow]
    total: int
    next: int | None


class Machine(Given):
    """seen: as its host describes it. standing: of its replication. runs: its recovered copies. possible: the kinds of
    job that may be begun now."""

    id: str
    name: str
    uuid: str
    site: str
    host: str
    host_name: str
    present: bool
    running: bool
    seen: dict[str, Any]
    relationship: str | None
    state: str | None
    health: str | None
    standing: dict[str, Any] | None
    policy: str | None
    policy_name: str | None
    since: datetime | None
    drilled: datetime | None
    runs: list[dict[str, Any]]
    job: str | None
    possible: list[str]


class NewJob(Taken):
    """kind: see `GET /api/v1/job-kinds`. confirm: the machine's name, for dangerous kinds."""

    kind: str = Field(
        max_length=64,
        json_schema_extra={"enum": [name for name, one in KINDS.items() if not one.observed]},
    )
    params: dict[str, Any] = Field(default_factory=dict)
    confirm: str = Field("", max_length=200)


class Task(Given):
    part: int
    name: str
    state: str
    began: datetime | None
    ended: datetime | None
    progress: float | None
    detail: str


class Job(Given):
    """error: its kind, subject, cause, what was tried, and the hint what to do next. actions: what may be done now."""

    id: str
    kind: str
    title: str
    state: str
    machine: str | None
    host: str | None
    subject: str
    by: str
    created: datetime
    began: datetime | None
    ended: datetime | None
    result: dict[str, Any]
    error: dict[str, Any] | None
    waiting: str
    cancelling: bool
    observed: bool
    actions: list[str]


class JobDetail(Job):
    tasks: list[Task]


class JobPage(Given):
    """next: to be sent as `before` for the next page; null on the last."""

    jobs: list[Job]
    next: str | None


class JobKind(Given):
    kind: str
    title: str
    role: str
    dangerous: bool
    observed: bool
    tasks: list[str]


class Point(Given):
    seq: int
    at: datetime
    consistency: str
    stored: int


class PointPage(Given):
    points: list[Point]
    next: int | None


class Sample(Given):
    at: datetime
    rpo: float | None
    queued_bytes: int
    stored: int
    churn: int
    latency: float


class Event(Given):
    id: str
    at: datetime
    severity: str
    kind: str
    machine: str | None
    host: str | None
    subject: str
    text: str


class EventPage(Given):
    events: list[Event]
    next: str | None


class Alert(Given):
    id: str
    kind: str
    subject: str
    text: str
    raised: datetime
    cleared: datetime | None
    acknowledged: datetime | None
    acknowledged_by: str


class Channel(Given):
    """Its target is not told: it may hold a secret."""

    id: str
    name: str
    kind: str
    kinds: list[str]
    enabled: bool
    created: datetime


class NewChannel(Taken):
    name: Name
    kind: str = Field(json_schema_extra={"enum": list(CHANNEL_KINDS)})
    target: str = Field(min_length=1, max_length=2000)
    kinds: list[str] = Field(
        default_factory=list,
        description="Of alerts; all if empty.",
        json_schema_extra={"items": {"enum": [str(one) for one in Condition]}},
    )


class Due(Given):
    machine: str
    name: str
    due: datetime


class Overview(Given):
    """levels: protected machines by health. jobs: by state; those that have ended within 24 hours.

    worst, overdue, alerts: the first of them; overdues, open_alerts: how many there are."""

    levels: dict[str, int]
    unprotected: int
    hosts: int
    silent: int
    sites: int
    stores: int
    policies: int
    jobs: dict[str, int]
    backlog: int
    worst: list[MachineRow]
    overdue: list[Due]
    alerts: list[Alert]
    overdues: int
    open_alerts: int


class User(Given):
    id: str
    name: str
    role: str
    enabled: bool
    created: datetime
    seen: datetime | None


class Me(Given):
    name: str
    role: str


class NewUser(Taken):
    name: str = Field(min_length=1, max_length=64, pattern=f"^{NAME.pattern}$")
    role: str = Field(json_schema_extra=_ROLES)
    password: str = Field(min_length=10, max_length=1000)


class UserChange(Taken):
    role: str | None = Field(None, json_schema_extra={"enum": [*_ROLES["enum"], None]})
    enabled: bool | None = None
    password: str | None = Field(None, min_length=10, max_length=1000)


class Token(Given):
    id: str
    name: str
    role: str
    created: datetime
    expires: datetime | None
    used: datetime | None


class NewToken(Taken):
    name: Name
    role: str = Field("reader", json_schema_extra=_ROLES)
    days: int | None = Field(365, ge=1, le=3650)


class LogIn(Taken):
    """token: what the new token is called in the list of one's tokens."""

    name: str = Field(min_length=1, max_length=64)
    password: str = Field(min_length=1, max_length=1000)
    token: Name = "log-in"
    days: int = Field(90, ge=1, le=365)


class MadeToken(Token):
    """token: in clear, this once only."""

    token: str


class AuditEntry(Given):
    id: str
    at: datetime
    who: str
    via: str
    address: str
    action: str
    target: str
    detail: dict[str, Any]
    outcome: str


class AuditPage(Given):
    entries: list[AuditEntry]
    next: str | None
