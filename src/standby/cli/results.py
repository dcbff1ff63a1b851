"""What commands print under --json. Part of the interface: docs/cli.md names every key, a test compares."""

from __future__ import annotations

import msgspec

from standby.records import Finding
from standby.replica import documents
from standby.replica.documents import Record
from standby.replica.keys import WrappedKey


class PointDisk(msgspec.Struct, kw_only=True):
    """changed: bytes of the pages that this point adds. stored: what they take in the store."""

    id: str
    size: int
    changed: int
    stored: int


class Point(msgspec.Struct, kw_only=True):
    """proof: the verdict of its newest proof (passed, failed, unsure; `kept` where only the key tells it). suspicious:
    why its changes look like those of somebody who encrypts the disks, "" if they do not."""

    point: int
    at: str
    consistency: str
    sealed: bool
    note: str
    epoch: int
    writer: str
    changed: int
    stored: int
    disks: tuple[PointDisk, ...]
    proof: str = ""
    suspicious: str = ""

    @classmethod
    def of(cls, record: Record, proof: str = "", suspicious: str = "") -> Point:
        disks = tuple(
            PointDisk(
                id=disk.id,
                size=disk.size,
                changed=sum(log.data for log in disk.logs),
                stored=sum(log.size for log in disk.logs),
            )
            for disk in record.disks
        )
        return cls(
            point=record.seq,
            at=record.at,
            consistency=record.consistency,
            sealed=record.kind == "seal",
            note=record.note,
            epoch=record.epoch,
            writer=record.writer,
            changed=sum(disk.changed for disk in disks),
            stored=sum(disk.stored for disk in disks),
            disks=disks,
            proof=proof,
            suspicious=suspicious,
        )


class Replica(msgspec.Struct, kw_only=True):
    """One row of `replica list`. problem: why it cannot be read, then the rest is empty."""

    replica: str
    machine: str = ""
    origin: str = ""
    owner: str = ""
    points: int = 0
    newest: Point | None = None
    disks: int = 0
    disk_bytes: int = 0
    stored: int = 0
    encrypted: bool = False
    problem: str = ""


class KeyMade(msgspec.Struct, kw_only=True):
    """key: its id."""

    key: str
    file: str


class ReplicaKey(msgspec.Struct, kw_only=True):
    """A key that opens a replica. key: its id. kind: `file` or `passphrase`."""

    key: str
    kind: str
    created: str

    @classmethod
    def of(cls, wrapped: WrappedKey) -> ReplicaKey:
        return cls(key=wrapped.id, kind=wrapped.kind, created=wrapped.created)


class KeyRotated(msgspec.Struct, kw_only=True):
    added: ReplicaKey
    removed: ReplicaKey


class ReplicaDisk(msgspec.Struct, kw_only=True):
    """changed, stored: of all logs since the floor. logs: how many."""

    id: str
    size: int
    format: str
    logs: int
    changed: int
    stored: int


class Hold(msgspec.Struct, kw_only=True):
    """since: when the reader began, by its clock; empty where that is unknown. by: what it does, and where."""

    id: str
    point: int
    since: str
    by: str

    @classmethod
    def of(cls, hold: documents.Hold) -> Hold:
        since = hold.since.isoformat() if hold.since else ""
        return cls(id=hold.id, point=hold.seq, since=since, by=hold.by)


class ReplicaDetail(msgspec.Struct, kw_only=True):
    replica: str
    id: str
    store: str
    machine: str
    machine_uuid: str
    memory: int
    cpus: int
    firmware: str
    origin: str
    created: str
    owner: str
    epoch: int
    floor: int
    records: int
    points: int
    oldest: Point | None
    newest: Point | None
    stored: int
    disks: tuple[ReplicaDisk, ...]
    holds: tuple[Hold, ...]
    keys: tuple[ReplicaKey, ...] = ()


class Damage(msgspec.Struct, kw_only=True):
    """object: as it is found in the store. points: those that cannot be trusted."""

    object: str
    problem: str
    points: tuple[int, ...]


class Verification(msgspec.Struct, kw_only=True):
    """bytes: of disks, whose every block was compared with its hash."""

    replica: str
    points: tuple[int, ...]
    records: int
    logs: int
    bytes: int
    seconds: float
    damaged: bool
    findings: tuple[Damage, ...]


class Restored(msgspec.Struct, kw_only=True):
    replica: str
    point: int
    at: str
    disk: str
    path: str
    format: str
    size: int
    written: int
    seconds: float


class Exported(msgspec.Struct, kw_only=True):
    """size: of the disk in the blob, whole MiB. written: bytes of data that were sent."""

    replica: str
    point: int
    at: str
    disk: str
    blob: str
    size: int
    written: int
    seconds: float


class ReplicaCost(msgspec.Struct, kw_only=True):
    """logs, layers, documents, boot, stored: bytes. unneeded: bytes among them that nothing needs, which a sweep
    deletes once the store allows it. writes, reads: requests a month, null where too few points
    tell their pace. storage, requests, total: money a month."""

    replica: str
    logs: int
    layers: int
    documents: int
    boot: int
    stored: int
    unneeded: int
    writes: int | None
    reads: int | None
    storage: float
    requests: float | None
    total: float


class Costs(msgspec.Struct, kw_only=True):
    """currency, as_of: of the price file."""

    store: str
    currency: str
    as_of: str
    replicas: tuple[ReplicaCost, ...]
    total: float


class Seeded(msgspec.Struct, kw_only=True):
    """read: bytes of the copies. sent: bytes that were stored; what an earlier run stored is not again."""

    store: str
    replica: str
    disks: tuple[str, ...]
    read: int
    sent: int
    seconds: float


class FileSystem(msgspec.Struct, kw_only=True):
    """name: what paths in it begin with. readable: whether it could be mounted."""

    name: str
    type: str
    readable: bool


class File(msgspec.Struct, kw_only=True):
    """kind: file, directory, link or special. target: of a link. mode: as `ls -l` writes it."""

    path: str
    kind: str
    size: int
    mode: str
    owner: int
    group: int
    modified: str
    target: str


class Files(msgspec.Struct, kw_only=True):
    """Without a path: the file systems. With one: the files there."""

    replica: str
    point: int
    at: str
    file_systems: tuple[FileSystem, ...] = ()
    files: tuple[File, ...] = ()


class CopiedFiles(msgspec.Struct, kw_only=True):
    """copied: what is there now."""

    replica: str
    point: int
    at: str
    copied: tuple[str, ...]
    seconds: float


class Serving(msgspec.Struct, kw_only=True):
    """Printed once, when clients can connect."""

    replica: str
    point: int
    at: str
    disk: str
    size: int
    uri: str
    socket: str
    pid: int


class StoreMade(msgspec.Struct, kw_only=True):
    store: str


class Checked(msgspec.Struct, kw_only=True):
    machine: str
    ready: bool
    findings: tuple[Finding, ...]


class VmDisk(msgspec.Struct, kw_only=True):
    """scan: why the disk is compared with its replica, or empty. scanned: bytes of that which are done."""

    id: str
    size: int
    scan: str
    scanned: int


class HealthReason(msgspec.Struct, kw_only=True):
    """level: Warning or Critical."""

    level: str
    text: str


class Interval(msgspec.Struct, kw_only=True):
    """A monitoring interval so far. Bytes of a point's logs; seconds from its instant to its commit."""

    since: str
    until: str
    points: int
    missed: int
    late: int
    stored_average: int
    stored_largest: int
    latency_average: float
    latency_largest: float


class VmTarget(msgspec.Struct, kw_only=True):
    """A place that a machine is replicated to. first: from which the others are brought level. stage: level, behind,
    joining or fenced; why: of one that is behind. queued: entries that wait for it. newest_at: the instant of its
    newest point. lag: seconds since then, absent if there is none."""

    store: str
    replica: str
    first: bool
    stage: str
    why: str
    queued: int
    queued_bytes: int
    newest_at: str
    lag: float | None
    error: str
    retry_at: str


class VmTargets(msgspec.Struct, kw_only=True):
    machine: str
    targets: tuple[VmTarget, ...]


class Vm(msgspec.Struct, kw_only=True):
    """running: an agent holds the books now. queued: points and scans that wait for the store.
    rpo: seconds that a failover now would lose. newest: the newest point in the store, absent where the store
    cannot be read (then `store_problem`); newest_at: its instant as the agent knows it."""

    machine: str
    id: str
    state: str
    before_pause: str
    health: str
    reasons: tuple[HealthReason, ...]
    rpo: float | None
    running: bool
    store: str
    replica: str
    frequency: int
    spool: str
    encrypted: bool
    key_file: str
    queued: int
    queued_bytes: int
    failures: int
    retry_at: str
    error: str
    newest: Point | None
    newest_at: str
    store_problem: str
    interval: Interval
    excluded: tuple[str, ...]
    disks: tuple[VmDisk, ...]
    targets: tuple[VmTarget, ...]


class AgentShown(msgspec.Struct, kw_only=True):
    """running: an agent has this state directory. vault: "" where the host belongs to none. answered: when the vault
    last answered a heartbeat. problem: why it did not answer the last one. skew: seconds by which the vault's clock is
    ahead."""

    running: bool
    vault: str
    host: str
    name: str
    site: str
    token_expires: str
    answered: str
    problem: str
    failures: int
    skew: float


class Unprotected(msgspec.Struct, kw_only=True):
    """dropped: points that were queued and never reached the store."""

    machine: str
    store: str
    replica: str
    dropped: int


class Event(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One line of `vm protect --json`. event: finding, task, progress, state, point, failed or stopped."""

    event: str
    at: str
    finding: Finding | None = None
    task: str = ""
    outcome: str = ""
    disk: str = ""
    done: int = 0
    size: int = 0
    state: str = ""
    point: int = 0
    consistency: str = ""
    note: str = ""
    changed: int | None = None
    sent: int | None = None
    window: float | None = None
    rpo: float | None = None
    error: str = ""
    subject: str = ""
    cause: str = ""
    hint: str = ""
    retry_at: str = ""


class FixUpFile(msgspec.Struct, kw_only=True):
    """difference: as `diff -U0` tells it, without secrets."""

    path: str
    difference: tuple[str, ...]


class FixUpPreview(msgspec.Struct, kw_only=True):
    """files: those that would be changed in the guest."""

    replica: str
    files: tuple[FixUpFile, ...]


class FailoverTest(msgspec.Struct, kw_only=True):
    """first_instruction, agent: seconds from the command. held: whether the point is kept meanwhile."""

    run: str
    machine: str
    store: str
    replica: str
    point: int
    phase: str
    held: bool
    first_instruction: float | None
    agent: float | None
    problems: tuple[Finding, ...]


class Failover(msgspec.Struct, kw_only=True):
    """state: of its machine: not started, running, paused, off. source: what was known of the source machine.
    epoch: of its fence. whole: the disks of which nothing is in the store only. point: 0 before one is chosen."""

    run: str
    machine: str
    store: str
    replica: str
    point: int
    phase: str
    state: str
    source: str
    epoch: int
    disks: tuple[str, ...]
    whole: tuple[str, ...]
    first_instruction: float | None
    agent: float | None
    problems: tuple[Finding, ...]


class Sealed(msgspec.Struct, kw_only=True):
    """A machine that was shut down for good. point: the seal, with its last write."""

    machine: str
    store: str
    replica: str
    point: int
    at: str


class Mended(msgspec.Struct, kw_only=True):
    """disks: those that are served again."""

    run: str
    disks: tuple[str, ...]


class CleanedUp(msgspec.Struct, kw_only=True):
    run: str


class DemoEnded(msgspec.Struct, kw_only=True):
    directory: str


class RetentionVerdict(msgspec.Struct, kw_only=True):
    """reasons: a sentence each."""

    point: int
    at: str
    consistency: str
    keep: bool
    reasons: tuple[str, ...]


class Folded(msgspec.Struct, kw_only=True):
    """Records `first`+1 to `last` are one now; `first` 0 means all up to `last`."""

    first: int
    last: int


class Merge(msgspec.Struct, kw_only=True):
    """layers, written: new ones and their bytes. taken_over: layers that stand as they were."""

    replica: str
    ranges: tuple[Folded, ...]
    layers: int
    written: int
    taken_over: int


class Swept(msgspec.Struct, kw_only=True):
    """Objects deleted, and bytes of logs and layers. waiting: why others stay for now. refused: objects that nothing
    needs and that the store did not allow to delete."""

    replica: str
    logs: int
    layers: int
    records: int
    bytes: int
    waiting: tuple[str, ...]
    proofs: int = 0
    refused: tuple[str, ...]


class Retention(msgspec.Struct, kw_only=True):
    """What a policy makes of each point. merge, swept: absent with --dry-run; `folds` tells what would be folded."""

    replica: str
    keep: tuple[str, ...]
    points: tuple[RetentionVerdict, ...]
    folds: tuple[Folded, ...]
    merge: Merge | None = None
    swept: Swept | None = None


class ScrubDamage(msgspec.Struct, kw_only=True):
    """kind: head, record, log, layer, boot file or proof. way_out: restore, resync or nothing; advice spells it out."""

    kind: str
    object: str
    cause: str
    points: tuple[int, ...]
    way_out: str
    advice: str


class Scrubbed(msgspec.Struct, kw_only=True):
    """logs: logs and layers that are named. read: objects compared in full, `bytes` long. unproved: what the key
    would have proved."""

    replica: str
    records: int
    logs: int
    read: int
    bytes: int
    seconds: float
    damaged: bool
    findings: tuple[ScrubDamage, ...]
    unproved: str = ""


class LoggedIn(msgspec.Struct, kw_only=True):
    """expires: of the token, "" where that is not known. file: where it is kept."""

    vault: str
    user: str
    role: str
    expires: str
    file: str


class CheckStage(msgspec.Struct, kw_only=True):
    """result: passed, failed or skipped (it cannot be tried from here)."""

    stage: str
    result: str
    seconds: float
    detail: str


class Check(msgspec.Struct, kw_only=True):
    """Of `standby check`. passed: no stage failed."""

    machine: str
    passed: bool
    stages: tuple[CheckStage, ...]


class BisectStep(msgspec.Struct, kw_only=True):
    point: int
    verdict: str


class Bisected(msgspec.Struct, kw_only=True):
    """between: points that stayed unsure, any of which may be the first that fails. kept: the hold on `good`, "" if
    there was one already or none could be made."""

    replica: str
    good: int
    bad: int
    between: tuple[int, ...]
    tested: tuple[BisectStep, ...]
    kept: str


class Reported(msgspec.Struct, kw_only=True):
    file: str
    machines: tuple[str, ...]
