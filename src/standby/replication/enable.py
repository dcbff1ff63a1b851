"""Enable protection, in Azure Site Recovery's tasks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID, uuid4

from ulid import ULID

from standby import failpoints
from standby.clock import Clock
from standby.errors import InvalidRequest, StandbyError
from standby.hypervisor.base import Hypervisor
from standby.objects.base import ObjectStore
from standby.objects.probe import probe
from standby.records import Finding, MachineDescription
from standby.replica import boot
from standby.replica.journal import Place, ReplicaMissing, check_replica_name, read_settled
from standby.replica.keys import Key, KeyFile, KeyMissing, WrongKey
from standby.replica.plan import last_state
from standby.replica.writer import create
from standby.replication.books import Books
from standby.replication.policy import Policy
from standby.replication.relationship import UNKNOWN, Connection, DiskBook, Relationship
from standby.replication.resync import Reason
from standby.replication.states import Event, State, Status, after

_CHECKED = failpoints.declare("enable.checked")
_NOTED = failpoints.declare("enable.noted")
_CREATED = failpoints.declare("enable.created")
_STARTED = failpoints.declare("enable.started")


CHECK: Final = "Prerequisites check for enabling protection"
IDENTIFY: Final = "Identifying replication target"
CREATE: Final = "Enable replication"
START: Final = "Starting initial replication"
TASKS: Final = (CHECK, IDENTIFY, CREATE, START)
"""Azure Site Recovery's names of what its job does."""


class Request(NamedTuple):
    """What to protect and where to. replica: its name in the store. spool: "" for beside the disks.

    connection: how an agent that is started later reaches the machine.
    take_over: continue the replica of that name, of which this agent has no books, if it is this machine's.
    key: the replica is encrypted, and this opens it. A key file is remembered, a passphrase is not.
    """

    machine: str
    replica: str
    policy: Policy
    spool: str = ""
    excluded: Collection[str] = ()
    take_over: bool = False
    connection: Connection | None = None
    key: Key | None = None


class NotReady(InvalidRequest):
    """Something stands against protecting the machine; `findings` lists all of it."""

    def __init__(self, machine: str, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        blocking = [finding for finding in findings if finding.blocks]
        super().__init__(
            "; ".join(f"{one.subject}: {one.problem} ({one.fix})" for one in blocking),
            subject=f"{machine}, prerequisites check",
            hint="correct these and enable protection again",
        )


def prerequisites(
    request: Request, hypervisor: Hypervisor, store: ObjectStore, scratch: Path
) -> tuple[Finding, ...]:
    """Everything that stands against protecting the machine, or limits it: all of it, at once."""
    findings = list(hypervisor.check(request.machine, scratch))
    description = hypervisor.describe(request.machine)
    known = {disk.id for disk in description.disks}
    findings += [
        Finding(
            subject=disk,
            problem="it is to be left out, but the machine has no such disk",
            fix=f"name one of {', '.join(sorted(known))}",
            blocks=True,
        )
        for disk in sorted(set(request.excluded) - known)
    ]
    if not known - set(request.excluded):
        findings.append(
            Finding(
                subject=request.machine, problem="no disk is left to protect", fix="include one", blocks=True
            )
        )
    if request.spool and not Path(request.spool).is_dir():
        findings.append(
            Finding(subject=request.spool, problem="it is no directory", fix="create it", blocks=True)
        )
    findings += _refused(store.url, lambda: probe(store))
    findings += _refused(request.replica, lambda: check_replica_name(request.replica))
    return tuple(findings)


def _refused(subject: str, ask: Callable[[], None]) -> list[Finding]:
    try:
        ask()
    except StandbyError as error:
        return [Finding(subject=subject, problem=str(error), fix=error.hint, blocks=True)]
    return []


def enable(
    request: Request,
    books: Books,
    hypervisor: Hypervisor,
    store: ObjectStore,
    origin: str,
    clock: Clock,
    checked: Callable[[Sequence[Finding]], None] = lambda _: None,
    told: Callable[[str], None] = lambda _: None,
) -> Relationship:
    """Enable protection; the engine does the rest. Interrupted anywhere, it is called again and goes on.

    checked: told the findings of the prerequisites check, also where they stand against nothing.
    told: each of TASKS as it begins.
    Raises NotReady with every finding; InvalidRequest if the machine or the replica's name is taken.
    """
    told(CHECK)
    relationship = _interrupted(books, request)
    if relationship is None:
        findings = prerequisites(request, hypervisor, store, books.scratch)
        checked(findings)
        if any(finding.blocks for finding in findings):
            raise NotReady(request.machine, findings)
        _CHECKED.reach()
        told(IDENTIFY)
        replica = (
            _left_behind(Place(store, request.replica, request.key), request) if request.take_over else None
        )
        relationship = _relationship(
            request, hypervisor.describe(request.machine), store.url, replica or uuid4()
        )
        books.add(relationship)
    _NOTED.reach()
    told(CREATE)
    try:
        head = create(
            store,
            request.replica,
            replica=relationship.replica_id,
            origin=origin,
            clock=clock,
            key=request.key,
        )
    except (InvalidRequest, KeyMissing, WrongKey):
        # Nothing was made in the store: the request can be put again with another name.
        books.remove(relationship.id)
        raise
    description = hypervisor.describe(request.machine)
    if head.wrapped:
        file = request.key.path if isinstance(request.key, KeyFile) else ""
        books.set_keys(relationship.id, head.wrapped, str(file))
    boot.put(
        Place(store, request.replica, request.key),
        description.boot_files,
        hypervisor.boot_files(request.machine),
    )
    _CREATED.reach()
    told(START)
    books.set_status(relationship.id, after(relationship.status, Event.STARTED, request.machine))
    _STARTED.reach()
    return books.get(relationship.id)


def _left_behind(place: Place, request: Request) -> UUID | None:
    """The id of the replica that is there already. Raises InvalidRequest if it is of another machine."""
    try:
        log, _ = read_settled(place)
    except ReplicaMissing:
        return None
    log.cipher()
    newest = last_state(log.records)
    if newest and newest.machine and newest.machine.name != request.machine:
        raise InvalidRequest(
            f"the replica {place.name} is of the machine {newest.machine.name}",
            subject=place.store.url,
            hint="choose another replica name",
        )
    return log.head.replica


def take_over(books: Books, relationship: str) -> None:
    """Own a replica again that another agent has fenced off: it is compared with the disks by hashes."""
    known = books.get(relationship)
    books.set_taking_over(known.id, True)
    books.set_status(known.id, after(known.status, Event.STARTED, known.machine))
    books.clear_troubles(known.id)


def _interrupted(books: Books, request: Request) -> Relationship | None:
    """A relationship that an earlier, killed call has noted and not started."""
    return next(
        (
            one
            for one in books.relationships()
            if one.machine == request.machine
            and one.status.state is State.NEW
            and one.replica == request.replica
        ),
        None,
    )


def _relationship(
    request: Request, description: MachineDescription, store: str, replica: UUID
) -> Relationship:
    return Relationship(
        id=str(ULID())[-12:].lower(),
        machine=request.machine,
        connection=request.connection,
        store=store,
        replica=request.replica,
        replica_id=replica,
        policy=request.policy,
        spool=request.spool,
        status=Status(State.NEW),
        active=0,
        committed="",
        excluded=tuple(sorted(request.excluded)),
        newest="",
        synced="",
        closing=0,
        taking_over=request.take_over,
        resync="",
        capture=None,
        send=None,
        disks=tuple(
            DiskBook(id=disk.id, size=disk.size, scan=Reason.NEVER.value, scanned=0, learned=UNKNOWN)
            for disk in description.disks
            if disk.id not in request.excluded
        ),
    )
