"""`standby vm protect`: enable protection of a running machine, and replicate it unless an agent does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer

from standby.agent import daemon
from standby.agent.engines import Engines
from standby.agent.operations import Operations
from standby.agent.unchanged import as_known, check_unchanged
from standby.cli.asking import by_agent
from standby.cli.foreground import stopping
from standby.cli.machine import AgentSocket, LibvirtUri, MachineName, NbdSocket, connection_of
from standby.cli.output import Json, print_json, say, stderr, stdout
from standby.cli.policy_options import (
    ApplicationConsistent,
    Backlog,
    Frequency,
    Reserve,
    ResyncHours,
    ResyncStart,
    policy_of,
)
from standby.cli.protecting import CREATE, Lines, Told
from standby.cli.reading import newest_point
from standby.cli.state import State, folder_of, made
from standby.cli.vault_login import Local, asked
from standby.cli.vm_where import Wait, only_here, only_in_a_vault, through_vault
from standby.clock import Clock, SystemClock
from standby.errors import InvalidRequest, Recoverable
from standby.link.requests import AddTarget, Protect
from standby.objects.address import open_store
from standby.replica.documents import Record
from standby.replica.keys import KeyFile
from standby.replication import states
from standby.replication.books import Books, find
from standby.replication.enable import take_over as take_over_replica
from standby.replication.followers import Followers
from standby.replication.policy import Policy
from standby.replication.relationship import Relationship
from standby.replication.unlock import set_key_file


def protect(
    machine: MachineName,
    store: Annotated[str, typer.Option("--store", metavar="STORE", help="Where the replica goes.")],
    qmp: Annotated[
        Path | None,
        typer.Option(
            "--qmp",
            metavar="SOCKET",
            help="A QMP socket of the machine, for standby alone; known from then on.",
        ),
    ] = None,
    agent: AgentSocket = None,
    nbd: NbdSocket = None,
    libvirt: LibvirtUri = None,
    replica: Annotated[
        str | None,
        typer.Option("--replica", metavar="NAME", help="Its name in the store [default: the machine's]."),
    ] = None,
    frequency: Frequency = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="DISK", help="Leave this disk out. Repeatable.")
    ] = None,
    spool: Annotated[
        Path | None,
        typer.Option(
            "--spool", metavar="DIR", help="Where logs wait for the store [default: beside each disk]."
        ),
    ] = None,
    application_consistent: ApplicationConsistent = None,
    backlog: Backlog = None,
    reserve: Reserve = None,
    resync: ResyncStart = None,
    resync_hours: ResyncHours = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            help="Continue a replica that another agent owns, or of which this one has lost its books.",
        ),
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            metavar="FILE",
            envvar="STANDBY_KEY_FILE",
            show_envvar=False,
            help="Encrypt the replica under this key; it must stay there [default: $STANDBY_KEY_FILE].",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="STORE",
            help="One more store to replicate to, from the same capture. Repeatable.",
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", metavar="POLICY", help="Of a vault: its name or id.")
    ] = None,
    wait: Wait = False,
    local: Local = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Protect a running machine: replicate it into a store.

    Where `standby agent run` is at work, it takes the machine on. Else this command replicates it, in the
    foreground, until Ctrl-C; started again, it goes on where it left off.

    Where a vault is named (`standby login`), it has the machine's agent do it, under a policy of the vault; --store is
    the name of one of its stores. What concerns the host itself, as --qmp, is refused then: see --local.
    """
    if asked(state, local):
        only_here(
            {
                "--qmp": qmp,
                "--agent": agent,
                "--nbd": nbd,
                "--frequency": frequency,
                "--application-consistent": application_consistent,
                "--backlog": backlog,
                "--reserve": reserve,
                "--resync": resync,
                "--resync-hours": resync_hours,
                "--target": target or None,
            }
        )
        params = {
            "store": store,
            "policy": policy or "",
            "replica": replica or "",
            "excluded": exclude or [],
            "spool": str(spool) if spool else "",
            "take_over": take_over,
            "key_file": str(key_file) if key_file else "",
        }
        through_vault().change(machine, "enable-protection", params, wait=wait, json=json)
        return
    only_in_a_vault("--policy", policy)
    opened = open_store(store)
    folder = made(folder_of(state))
    known = _known(folder, machine)
    request = Protect(
        machine=machine,
        connection=connection_of(machine, known.connection if known else None, qmp, agent, nbd, libvirt),
        store=opened.url,
        replica=replica or machine,
        policy=policy_of(
            known.policy if known else Policy(),
            frequency=frequency,
            application_consistent=application_consistent,
            backlog=backlog,
            reserve=reserve,
            resync=resync,
            resync_hours=resync_hours,
        ),
        spool=str(spool.absolute()) if spool else "",
        excluded=tuple(exclude or ()),
        take_over=take_over,
        key_file=str(KeyFile(key_file).path) if key_file else "",
    )
    more = [
        AddTarget(machine=machine, store=open_store(one).url, replica=request.replica, take_over=take_over)
        for one in target or ()
    ]
    if (done := by_agent(folder, request)) is not None:
        for one in more:
            by_agent(folder, one)
        if json:
            print_json(done)
        else:
            say(
                stdout(),
                f"The agent replicates {machine} now: `standby vm show {machine}` tells how it stands.",
            )
        return
    _in_foreground(folder, request, more, json=json)


def _in_foreground(folder: Path, request: Protect, more: Sequence[AddTarget], *, json: bool) -> None:
    clock, machine = SystemClock(), request.machine
    with closing(Books(folder)) as books, ExitStack() as stack:

        def book() -> Relationship:
            return find(books, machine)

        watch = Lines(book) if json else Told(book, stdout(), stderr())
        known = next((one for one in books.relationships() if one.machine == machine), None)
        if known is None or known.status.state is states.State.NEW:
            with closing(Engines(books, clock, daemon.Logged, running=False)) as engines:
                Operations(books, engines, clock, watch.findings).do(request)
            watch.task_done(CREATE)
        else:
            request = as_known(books, known, request)
            check_unchanged(known, request)
            if request.key_file != known.key_file and request.key_file:
                set_key_file(books, known, open_store(known.store), Path(request.key_file))
            books.set_policy(known.id, request.policy)
            books.set_connection(known.id, request.connection)
            if known.status.state in (states.State.FENCED, states.State.SEALED):
                take_over_replica(books, known.id)
            else:
                books.clear_troubles(known.id)
            if not json:
                say(
                    stdout(),
                    f"{machine} is protected already ({known.status.state.value}): going on from there.",
                )
        _add_targets(books, clock, book(), more)
        stop = stack.enter_context(stopping(watch.stopping))
        stack.callback(watch.scan_ended)
        watch.begin(_newest(request))
        daemon.run(books, clock, stop, machine=machine, observer=lambda _: watch)
    watch.stopped()


def _add_targets(books: Books, clock: Clock, relationship: Relationship, more: Sequence[AddTarget]) -> None:
    followers = Followers(books).of(relationship.id)
    there = {(relationship.store, relationship.replica), *((one.store, one.replica) for one in followers)}
    with closing(Engines(books, clock, daemon.Logged, running=False)) as engines:
        for one in more:
            if (one.store, one.replica) not in there:
                Operations(books, engines, clock).do(one)


def _known(folder: Path, machine: str) -> Relationship | None:
    try:
        with closing(Books.reading(folder)) as books:
            return next((one for one in books.relationships() if one.machine == machine), None)
    except InvalidRequest:
        # None are there yet, or they are of another version, which opening them to write tells.
        return None


def _newest(request: Protect) -> Record | None:
    """The newest point, or None while the store is away: captures go on all the same, and the engine tells."""
    try:
        return newest_point(open_store(request.store), request.replica)
    except Recoverable:
        return None
