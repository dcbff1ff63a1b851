"""`standby vm`: protected machines of this host, by the agent's books and their own control sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.help import Group
from standby.cli.machine import (
    AgentSocket,
    MachineName,
    NbdSocket,
    QmpSocket,
    hypervisor_of,
    show_findings,
)
from standby.cli.output import Column, Field, Json, fields, print_json, say, stdout, table
from standby.cli.quantities import age, counted, duration, instant, local, size, zone
from standby.cli.reading import newest_point
from standby.cli.state import State, find, folder_of, made
from standby.cli.vm_protect import protect
from standby.errors import InvalidRequest, StandbyError
from standby.objects.address import open_store
from standby.replication.books import Books
from standby.replication.disable import disable
from standby.replication.enable import NotReady
from standby.replication.holder import holder
from standby.replication.relationship import Relationship
from standby.replication.states import Event, after
from standby.replication.states import State as Stage

app = typer.Typer(cls=Group)


@app.command()
def check(
    machine: MachineName,
    qmp: QmpSocket,
    agent: AgentSocket = None,
    nbd: NbdSocket = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Tell everything that stands against protecting a machine, or limits it. Changes nothing in it."""
    scratch = made(folder_of(state) / "scratch")
    findings = tuple(hypervisor_of(machine, qmp, agent, nbd).check(machine, scratch))
    blocking = [finding for finding in findings if finding.blocks]
    if json:
        print_json(results.Checked(machine=machine, ready=not blocking, findings=findings))
    else:
        console = stdout()
        show_findings(console, findings)
        if blocking:
            say(console, f"{machine} cannot be protected yet: {counted(len(blocking), 'problem')}.")
        else:
            remarks = f", {counted(len(findings), 'remark')}" if findings else ""
            say(console, f"{machine} is ready to be protected{remarks}.", style="green")
    if blocking:
        raise typer.Exit(NotReady.exit_status)


# Here, as help lists commands in the order of their making.
app.command()(protect)


@app.command("list")
def list_machines(state: State = None, json: Json = False) -> None:
    """List the machines that are protected here."""
    folder = folder_of(state)
    with _reading(folder) as books:
        found = [_vm(books, one) for one in books.relationships()]
    if json:
        print_json(found)
    elif not found:
        say(stdout(), "No machine is protected here yet: `standby vm protect` begins.")
    else:
        _print_list(found)


@app.command()
def show(machine: MachineName, state: State = None, json: Json = False) -> None:
    """Show a protected machine: state, disks, queue, last error, newest point."""
    with _reading(folder_of(state)) as books:
        vm = _vm(books, find(books, machine))
    if json:
        print_json(vm)
    else:
        _print_detail(vm)


@app.command()
def pause(machine: MachineName, state: State = None, json: Json = False) -> None:
    """Pause replication: no more points; changes go on being tracked. Where no agent runs."""
    _apply(machine, state, Event.PAUSED, json=json)


@app.command()
def resume(machine: MachineName, state: State = None, json: Json = False) -> None:
    """Resume replication that was paused, or take a fenced replica back. Where no agent runs."""
    _apply(machine, state, Event.RESUMED, json=json)


@app.command()
def unprotect(
    machine: MachineName,
    qmp: Annotated[
        Path | None,
        typer.Option("--qmp", metavar="SOCKET", help="The machine's QMP socket, to end change tracking."),
    ] = None,
    agent: AgentSocket = None,
    nbd: NbdSocket = None,
    gone: Annotated[
        bool, typer.Option("--machine-gone", help="The machine's process is gone, and its tracking with it.")
    ] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """End protection. The replica stays in the store, with all its points."""
    if (qmp is None) is not gone:
        raise InvalidRequest(
            "it must be told whether the machine still runs",
            subject=machine,
            hint="give its socket with --qmp, or --machine-gone",
        )
    with _open(folder_of(state)) as books:
        relationship = find(books, machine)
        hypervisor = None if qmp is None else hypervisor_of(machine, qmp, agent, nbd)
        dropped = disable(books, relationship.id, hypervisor)
    if json:
        print_json(
            results.Unprotected(
                machine=machine, store=relationship.store, replica=relationship.replica, dropped=dropped
            )
        )
        return
    lost = f" {counted(dropped, 'point')} had not reached the store and are dropped." if dropped else ""
    say(
        stdout(),
        f"{machine} is no longer protected.{lost} Its replica {relationship.replica} stays in "
        f"{relationship.store}: `standby replica points {relationship.store} {relationship.replica}`.",
    )


@contextmanager
def _reading(folder: Path) -> Iterator[Books]:
    books = Books.reading(folder)
    try:
        yield books
    finally:
        books.close()


@contextmanager
def _open(folder: Path) -> Iterator[Books]:
    # Without this, a wrong --state would make new books there.
    Books.reading(folder).close()
    books = Books(folder)
    try:
        yield books
    finally:
        books.close()


def _apply(machine: str, state: Path | None, event: Event, *, json: bool) -> None:
    with _open(folder_of(state)) as books:
        relationship = find(books, machine)
        _check_possible(relationship, event)
        books.set_status(relationship.id, after(relationship.status, event, machine))
        vm = _vm(books, books.get(relationship.id))
    if json:
        print_json(vm)
    elif event is Event.PAUSED:
        say(
            stdout(),
            f"{machine} is paused (it was: {vm.before_pause}). `standby vm resume {machine}` ends it.",
        )
    else:
        say(stdout(), f"{machine} is resumed: {vm.state}. `standby vm protect` goes on.")


def _check_possible(relationship: Relationship, event: Event) -> None:
    """Raises InvalidRequest in an operator's words for what the table of states only refuses."""
    machine, state = relationship.machine, relationship.status.state
    if event is Event.PAUSED and state is Stage.PAUSED:
        raise InvalidRequest(
            "it is paused already", subject=machine, hint=f"`standby vm resume {machine}` ends the pause"
        )
    if event is Event.RESUMED and state is not Stage.PAUSED:
        raise InvalidRequest(
            f"it is not paused but {state.value}",
            subject=machine,
            hint=f"`standby vm show {machine}` tells how it stands",
        )


def _vm(books: Books, relationship: Relationship) -> results.Vm:
    queue = books.queue(relationship.id)
    newest, problem = None, ""
    try:
        newest = newest_point(open_store(relationship.store), relationship.replica)
    except StandbyError as error:
        problem = f"{error.subject}: {error.cause}"
    trouble = relationship.send or relationship.capture
    retry_at = trouble.retry_at if trouble else None
    return results.Vm(
        machine=relationship.machine,
        id=relationship.id,
        state=relationship.status.state.value,
        before_pause=relationship.status.before_pause.value if relationship.status.before_pause else "",
        running=holder(books.folder) is not None,
        store=relationship.store,
        replica=relationship.replica,
        frequency=relationship.policy.frequency,
        spool=relationship.spool,
        queued=len(queue),
        queued_bytes=sum(entry.stored for entry in queue),
        failures=trouble.failures if trouble else 0,
        retry_at=datetime.fromtimestamp(retry_at, UTC).isoformat() if retry_at else "",
        error=relationship.error,
        newest=results.Point.of(newest) if newest else None,
        store_problem=problem,
        disks=tuple(
            results.VmDisk(id=disk.id, size=disk.size, scan=disk.scan, scanned=disk.scanned)
            for disk in relationship.disks
        ),
    )


def _print_list(found: list[results.Vm]) -> None:
    console, now = stdout(), datetime.now(UTC)
    table(
        console,
        [
            Column("Machine"),
            Column("State"),
            Column("Newest point", right=True),
            Column("Queue", priority=2, right=True),
            Column("Agent", priority=1),
            Column("Every", priority=3, right=True),
        ],
        [
            (
                vm.machine,
                vm.state,
                _newest_age(vm, now),
                str(vm.queued) if vm.queued else "-",
                "running" if vm.running else "stopped",
                duration(vm.frequency),
            )
            for vm in found
        ],
    )
    for vm in found:
        # Below the table: what is wrong must not give way to a narrow terminal.
        if trouble := vm.error or vm.store_problem:
            say(console, f"\n{vm.machine}: {trouble}", style="yellow")


def _newest_age(vm: results.Vm, now: datetime) -> str:
    if vm.store_problem:
        return "unknown"
    return age(instant(vm.newest.at), now) if vm.newest else "none yet"


def _print_detail(vm: results.Vm) -> None:
    console, now = stdout(), datetime.now(UTC)
    newest = _newest_age(vm, now)
    if vm.newest:
        at = instant(vm.newest.at)
        newest = f"{vm.newest.point}, {newest} ({local(at)} {zone(at)}), {vm.newest.consistency}"
    elif vm.store_problem:
        newest = f"unknown: {vm.store_problem}"
    retry = ""
    if vm.retry_at:
        at = instant(vm.retry_at)
        retry = f"at {local(at)} {zone(at)}, after {counted(vm.failures, 'failure')}"
    fields(
        console,
        [
            Field("Machine", f"{vm.machine} ({vm.id})"),
            Field("State", vm.state + (f" (before: {vm.before_pause})" if vm.before_pause else "")),
            Field("Agent", "running" if vm.running else "stopped: `standby vm protect` goes on"),
            Field("Store", vm.store),
            Field("Replica", vm.replica),
            Field("Newest", newest),
            Field("Every", duration(vm.frequency)),
            Field("Spool", vm.spool or "beside each disk"),
            Field("Queue", f"{vm.queued}, {size(vm.queued_bytes)}" if vm.queued else "empty"),
            Field("Error", vm.error),
            Field("Retry", retry),
        ],
    )
    console.print()
    table(
        console,
        [Column("Disk"), Column("Size", right=True), Column("Scanned", right=True), Column("Scan because")],
        [
            (
                disk.id,
                size(disk.size),
                f"{100 * disk.scanned // disk.size} %" if disk.scan and disk.size else "-",
                disk.scan or "(all changes are known)",
            )
            for disk in vm.disks
        ],
    )
