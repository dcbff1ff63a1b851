"""`standby vm protect`: enable protection of a running machine, and replicate it until told to stop."""

from __future__ import annotations

import socket
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from ulid import ULID

from standby.cli.foreground import stopping
from standby.cli.machine import AgentSocket, MachineName, NbdSocket, QmpSocket, hypervisor_of
from standby.cli.output import Json, say, stderr, stdout
from standby.cli.protecting import CREATE, Lines, Told
from standby.cli.reading import newest_point
from standby.cli.state import State, folder_of, made
from standby.clock import SystemClock
from standby.errors import Fenced, InvalidRequest, Recoverable
from standby.hypervisor.qemu import QemuHypervisor
from standby.objects.address import open_store
from standby.objects.base import ObjectStore
from standby.replica.documents import Record
from standby.replication import states
from standby.replication.books import Books
from standby.replication.enable import Request, enable
from standby.replication.enable import take_over as take_over_replica
from standby.replication.engine import Engine
from standby.replication.policy import FREQUENCIES, Policy
from standby.replication.relationship import Relationship
from standby.replication.runner import run_alone
from standby.replication.source import Source
from standby.replication.target import Target


def protect(
    machine: MachineName,
    qmp: QmpSocket,
    store: Annotated[str, typer.Option("--store", metavar="STORE", help="Where the replica goes.")],
    agent: AgentSocket = None,
    nbd: NbdSocket = None,
    replica: Annotated[
        str | None,
        typer.Option("--replica", metavar="NAME", help="Its name in the store [default: the machine's]."),
    ] = None,
    frequency: Annotated[
        int | None,
        typer.Option(
            "--frequency",
            metavar="SECONDS",
            help=f"Between two points: {', '.join(map(str, FREQUENCIES))} [default: 30].",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="DISK", help="Leave this disk out. Repeatable.")
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option(
            "--spool", metavar="DIR", help="Where logs wait for the store [default: beside each disk]."
        ),
    ] = None,
    application_consistent: Annotated[
        int | None,
        typer.Option(
            "--application-consistent",
            metavar="HOURS",
            help="A point with the guest's file systems frozen every so many hours, 1 to 12 [default: 0, none].",
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Continue a replica that another agent owns, or of which this one has lost its books.",
        ),
    ] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Protect a running machine: replicate it into a store, in the foreground, until Ctrl-C.

    Started again, it goes on where it left off.
    """
    opened = open_store(store)
    hypervisor = hypervisor_of(machine, qmp, agent, nbd)
    request = Request(
        machine=machine,
        replica=replica or machine,
        policy=_policy(Policy(), frequency, application_consistent),
        spool=str(spool.absolute()) if spool else "",
        excluded=exclude or [],
        take_over=take_over,
    )
    with closing(Books(made(folder_of(state)))) as books:
        found: list[Relationship] = []
        watch = (
            Lines(lambda: books.get(found[0].id))
            if json
            else Told(lambda: books.get(found[0].id), stdout(), stderr())
        )
        known = next((one for one in books.relationships() if one.machine == machine), None)
        if known is None or known.status.state is states.State.NEW:
            known = enable(
                request, books, hypervisor, opened, socket.gethostname(), SystemClock(), watch.findings
            )
            watch.task_done(CREATE)
        else:
            _check_unchanged(known, request, opened, take_over)
            books.set_policy(known.id, _policy(known.policy, frequency, application_consistent))
            if known.status.state in (states.State.FENCED, states.State.SEALED):
                take_over_replica(books, known.id)
            if not json:
                say(
                    stdout(),
                    f"{machine} is protected already ({known.status.state.value}): going on from there.",
                )
        found.append(known)
        _replicate(books, known, hypervisor, opened, watch)


def _replicate(
    books: Books,
    relationship: Relationship,
    hypervisor: QemuHypervisor,
    store: ObjectStore,
    watch: Lines | Told,
) -> None:
    clock = SystemClock()
    machine, host = relationship.machine, socket.gethostname()
    source = Source(books, relationship.id, hypervisor, lambda: hypervisor.describe(machine), clock)
    target = Target(books, relationship.id, store, f"standby@{host}", clock, lambda: str(ULID()))
    engine = Engine(books, relationship.id, source, target, clock, watch)
    with ExitStack() as stack:
        stop = stack.enter_context(stopping(watch.stopping))
        stack.callback(engine.close)
        stack.callback(watch.scan_ended)
        watch.begin(_newest(store, relationship.replica))
        engine.retry_now()
        run_alone(engine, clock, stop)
    watch.stopped()


def _newest(store: ObjectStore, replica: str) -> Record | None:
    """The newest point, or None while the store is away: captures go on all the same, and the engine tells."""
    try:
        return newest_point(store, replica)
    except Recoverable:
        return None


def _policy(policy: Policy, frequency: int | None, hours: int | None) -> Policy:
    """The policy with what the command says about it."""
    return msgspec.structs.replace(
        policy,
        frequency=policy.frequency if frequency is None else frequency,
        application_consistent_hours=policy.application_consistent_hours if hours is None else hours,
    )


def _check_unchanged(known: Relationship, request: Request, store: ObjectStore, take_over: bool) -> None:
    """What was decided when protection was enabled stays; a command that says otherwise is refused."""
    for what, was, wanted in (
        ("store", known.store, store.url),
        ("replica name", known.replica, request.replica),
        ("spool", known.spool, request.spool or known.spool),
    ):
        if was != wanted:
            raise InvalidRequest(
                f"it is protected already, with the {what} {was or 'beside each disk'} and not {wanted}",
                subject=known.machine,
                hint=f"leave that as it is, or `standby vm unprotect {known.machine}` first",
            )
    if left := sorted({disk.id for disk in known.disks} & set(request.excluded)):
        raise InvalidRequest(
            f"the disk {left[0]} is protected already",
            subject=known.machine,
            hint=f"`standby vm unprotect {known.machine}`, then protect it anew without that disk",
        )
    if known.status.state is states.State.PAUSED:
        raise InvalidRequest(
            "it is paused", subject=known.machine, hint=f"`standby vm resume {known.machine}`, then again"
        )
    if known.status.state is states.State.SEALED and not take_over:
        raise InvalidRequest(
            "it is sealed: the machine was shut down for good, and may run elsewhere",
            subject=known.machine,
            hint="if it was failed back and runs here and nowhere else, the same command with --take-over; "
            f"or `standby vm unprotect {known.machine}`: its replica stays",
        )
    if known.status.state is states.State.FENCED and not take_over:
        raise Fenced(
            known.error or "another agent owns the replica",
            subject=known.machine,
            hint="make sure that the machine runs here and nowhere else, then the same command with --take-over",
        )
