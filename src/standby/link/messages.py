"""The agent speaks, the vault answers: registration and heartbeats, as JSON bodies over HTTPS.

All traffic is begun by the agent. Instants are RFC 3339 in UTC, sizes are bytes, durations seconds. Fields are
added with defaults and never change their meaning: an agent and a vault of neighbouring versions understand each other.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

from standby.link.recovery import AnyRecoveryOrder
from standby.link.requests import AnyRequest, Refused
from standby.link.upkeep import AnyUpkeepOrder
from standby.replication.policy import Policy
from standby.replication.relationship import Connection

HEARTBEAT_PATH: Final = "/agent/v1/heartbeat"
REGISTER_PATH: Final = "/agent/v1/register"


class VaultKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a vault key file holds. authority: PEM of the certificate that the vault's is checked against, "" for the
    system's authorities. key: opens one registration, until `expires`."""

    vault: str
    site: str
    key: str
    expires: str
    authority: str = ""


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """host: the id that this host had with this vault before, "" for a new one. A host that registers again keeps its
    machines and jobs; its old token ends."""

    key: str
    name: str
    version: str
    host: str = ""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    host: str
    site: str
    token: str
    expires: str


class SeenDisk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    size: int
    format: str = ""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A machine of the host, protected or not. uuid: as its hypervisor knows it, "" if it has none. problem: why it
    cannot be protected as it stands."""

    name: str
    uuid: str = ""
    running: bool = True
    connection: Connection | None = None
    disks: tuple[SeenDisk, ...] = ()
    problem: str = ""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    level: str
    text: str


class DiskStanding(msgspec.Struct, frozen=True, kw_only=True):
    """scan: why all of it is compared with the replica, "" if it is not; scanned: how far."""

    id: str
    size: int
    scan: str = ""
    scanned: int = 0


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """The monitoring interval so far (Hyper-V Replica: statistics). churn: bytes written by disk."""

    since: str
    points: int = 0
    missed: int = 0
    late: int = 0
    stored_average: int = 0
    stored_largest: int = 0
    latency_average: float = 0.0
    latency_largest: float = 0.0
    churn: dict[str, int] = {}


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """A relationship as its agent's books have it. level: of the health; rpo: seconds that a failover now would lose,
    None without a point. error_kind: the class of the error that stands."""

    id: str
    machine: str
    store: str
    replica: str
    replica_id: str
    state: str
    policy: Policy
    before_pause: str = ""
    level: str = ""
    reasons: tuple[Reason, ...] = ()
    rpo: float | None = None
    newest_at: str = ""
    queued: int = 0
    queued_bytes: int = 0
    error: str = ""
    error_kind: str = ""
    failures: int = 0
    retry_at: str = ""
    encrypted: bool = False
    excluded: tuple[str, ...] = ()
    disks: tuple[DiskStanding, ...] = ()
    interval: Interval | None = None


class PointMade(msgspec.Struct, frozen=True, kw_only=True):
    """A point that an agent committed. stored: bytes of its logs."""

    relationship: str
    seq: int
    at: str
    consistency: str
    stored: int = 0


class RunStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A test failover, failover or failback on this host. kind: `test`, `failover` or `failback`. phase: as
    `standby failover list` has it. machine_state: "" before it was started. whole: disks that no longer need
    the store."""

    run: str
    kind: str
    machine: str
    store: str
    replica: str
    point: int
    phase: str
    machine_state: str = ""
    disks: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    first_instruction: float | None = None
    agent_answered: float | None = None
    problems: tuple[Reason, ...] = ()


class TaskState(StrEnum):
    PENDING = "pending"
    IN_PROGRESS = "in progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


class TaskReport(msgspec.Struct, frozen=True, kw_only=True):
    """One line of what a job does. progress: 0 to 1, None where that cannot be told."""

    name: str
    state: TaskState
    began: str = ""
    ended: str = ""
    progress: float | None = None
    detail: str = ""


class WorkState(StrEnum):
    IN_PROGRESS = "in progress"
    WAITING = "waiting for input"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class WorkReport(msgspec.Struct, frozen=True, kw_only=True):
    """How an order stands. Told with every heartbeat until the vault has taken its end in (`Answer.taken`).

    lease: of the order; the vault ignores reports under an older one. result: what the vault keeps of it, as
    {"run": …} of a failover. waiting: what a person has to do; the order has ended then, and comes again, under a new
    lease, once that is done.
    """

    job: str
    lease: int
    state: WorkState
    tasks: tuple[TaskReport, ...] = ()
    error: Refused | None = None
    result: dict[str, str] = {}
    waiting: str = ""


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of the host as it is now; only `points` are news, told until a heartbeat with them was answered.

    instance: new with each start of the agent. time: the host's clock. room: how many more orders it would take now.
    missing: it cannot tell these parts now (`machines`, `runs`): what the vault knows of them stays.
    """

    instance: str
    version: str
    time: str
    machines: tuple[Seen, ...] = ()
    relationships: tuple[Standing, ...] = ()
    runs: tuple[RunStanding, ...] = ()
    points: tuple[PointMade, ...] = ()
    work: tuple[WorkReport, ...] = ()
    room: int = 0
    missing: tuple[str, ...] = ()


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Something to do. title: of the job, for the log.

    It is given again, with the same lease, to an agent that lost it: doing it twice must be doing it once.
    """

    job: str
    lease: int
    title: str
    work: AnyRequest | AnyRecoveryOrder | AnyUpkeepOrder


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """taken: jobs whose end is known here, or that are no longer this host's: their reports end. cancel: jobs to give
    up. next: seconds until the next heartbeat. token: a new one to be used from now on, "" while the old one is good.
    """

    orders: tuple[Order, ...] = ()
    taken: tuple[str, ...] = ()
    cancel: tuple[str, ...] = ()
    next: float = 5.0
    token: str = ""
    token_expires: str = ""
