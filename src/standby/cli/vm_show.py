"""`standby vm list`, `show` and `churn`: how protected machines stand, by the agent's books."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from standby.agent.report import Looking, retry_at, scan_told
from standby.cli import results
from standby.cli.machine import MachineName
from standby.cli.output import Column, Field, Json, fields, print_json, say, stdout, table
from standby.cli.quantities import age, counted, duration, instant, local, size, zone
from standby.cli.reading import newest_point
from standby.cli.state import State, folder_of
from standby.cli.vault_login import Local, asked
from standby.cli.vm_targets import print_targets, targets_of
from standby.cli.vm_where import only_in_a_vault, through_vault
from standby.errors import StandbyError
from standby.objects.address import open_store
from standby.replication import chronicle, statistics
from standby.replication.books import Books, find
from standby.replication.followers import Followers
from standby.replication.health import Level
from standby.replication.holder import holder
from standby.replication.hours import host_zone
from standby.replication.relationship import Relationship
from standby.replication.statistics import Churn

_STYLES = {Level.CRITICAL: "red", Level.WARNING: "yellow", Level.NORMAL: "green", Level.NOT_APPLICABLE: ""}
_SHADES = " .:-=+*#%@"


def list_machines(
    unprotected: Annotated[
        bool, typer.Option("--unprotected", help="Only those that are not protected; of a vault.")
    ] = False,
    local: Local = False,
    state: State = None,
    json: Json = False,
) -> None:
    """List machines with their health: those that are protected here, or a vault's."""
    if asked(state, local):
        through_vault().list_machines(unprotected=unprotected, json=json)
        return
    only_in_a_vault("--unprotected", unprotected)
    with _reading(folder_of(state)) as books:
        found = [vm_of(books, one, ask_store=False) for one in books.relationships()]
    if json:
        print_json(found)
    elif not found:
        say(stdout(), "No machine is protected here yet: `standby vm protect` begins.")
    else:
        _print_list(found)


def show(machine: MachineName, local: Local = False, state: State = None, json: Json = False) -> None:
    """Show a protected machine: health and why, points, queue, errors, disks."""
    if asked(state, local):
        through_vault().show(machine, json=json)
        return
    with _reading(folder_of(state)) as books:
        vm = vm_of(books, find(books, machine))
    if json:
        print_json(vm)
    else:
        _print_detail(vm)


def churn(machine: MachineName, state: State = None, json: Json = False) -> None:
    """Show how much a machine writes: by disk, by time, and where on the disk."""
    tz, now = host_zone(), datetime.now(UTC)
    with _reading(folder_of(state)) as books:
        relationship = find(books, machine)
        history = chronicle.read(books, relationship, now, tz).history
        shown = statistics.rolled(history, now, relationship.policy.monitoring, tz).current
    if json:
        print_json(shown)
        return
    console = stdout()
    say(console, f"Since {local(shown.since)} {zone(shown.since)}, until {local(shown.until)}:")
    if not shown.disks:
        say(console, "nothing was written.")
    for disk, written in sorted(shown.disks.items(), key=lambda one: -one[1].total):
        say(console, f"\n{disk}: {size(written.total)} written", style="bold")
        console.print(Text(f"  over time  |{_map(written.parts)}|"), soft_wrap=True)
        console.print(Text(f"  over disk  |{_map(_folded(written))}|"), soft_wrap=True)
        for offset, length, count in written.hottest(3):
            say(console, f"  {size(count)} at {size(offset)} to {size(offset + length)}", indent=2)


def vm_of(books: Books, relationship: Relationship, *, ask_store: bool = True) -> results.Vm:
    """ask_store: look there for the newest point; else what the agent last knew is told."""
    running = holder(books.folder) is not None
    followers = Followers(books).of(relationship.id)
    _, queue, health, interval = Looking(books).at(relationship, agent=running)
    newest, problem = None, ""
    if ask_store:
        try:
            newest = newest_point(open_store(relationship.store), relationship.replica)
        except StandbyError as error:
            problem = f"{error.subject}: {error.cause}"
    trouble = relationship.send or relationship.capture
    return results.Vm(
        machine=relationship.machine,
        id=relationship.id,
        state=relationship.status.state.value,
        before_pause=relationship.status.before_pause.value if relationship.status.before_pause else "",
        health=str(health.level),
        reasons=tuple(results.HealthReason(level=str(one.level), text=one.text) for one in health.reasons),
        rpo=health.rpo,
        running=running,
        store=relationship.store,
        replica=relationship.replica,
        frequency=relationship.policy.frequency,
        spool=relationship.spool,
        encrypted=bool(relationship.wrapped),
        key_file=relationship.key_file,
        queued=queue.length,
        queued_bytes=sum(queue.bytes.values()),
        failures=trouble.failures if trouble else 0,
        retry_at=retry_at(relationship),
        error=relationship.error,
        newest=results.Point.of(newest) if newest else None,
        newest_at=health.newest_point.isoformat() if health.newest_point else "",
        store_problem=problem,
        interval=results.Interval(
            since=interval.since.isoformat(),
            until=interval.until.isoformat(),
            points=interval.points,
            missed=interval.missed,
            late=interval.late,
            stored_average=round(interval.stored.average),
            stored_largest=round(interval.stored.largest),
            latency_average=interval.latency.average,
            latency_largest=interval.latency.largest,
        ),
        targets=targets_of(relationship, queue, followers),
        excluded=relationship.excluded,
        disks=tuple(
            results.VmDisk(
                id=disk.id,
                size=disk.size,
                scan=scan_told(disk.scan),
                scanned=disk.scanned,
            )
            for disk in relationship.disks
        ),
    )


@contextmanager
def _reading(folder: Path) -> Iterator[Books]:
    books = Books.reading(folder)
    try:
        yield books
    finally:
        books.close()


def _map(counts: tuple[int, ...] | list[int]) -> str:
    """One character a number, the darker the larger."""
    most = max(counts, default=0) or 1
    return "".join(_SHADES[-(-count * (len(_SHADES) - 1) // most)] for count in counts)


def _folded(written: Churn, columns: int = 48) -> list[int]:
    """The regions of the disk in so many columns at most."""
    step = -(-len(written.regions) // columns)
    return [sum(written.regions[at : at + step]) for at in range(0, len(written.regions), step)]


def _print_list(found: list[results.Vm]) -> None:
    console, now = stdout(), datetime.now(UTC)
    table(
        console,
        [
            Column("Machine"),
            Column("Health"),
            Column("State", priority=1),
            Column("Newest point", right=True),
            Column("Queue", priority=3, right=True),
            Column("Agent", priority=2),
            Column("Every", priority=4, right=True),
        ],
        [
            (
                vm.machine,
                vm.health,
                vm.state,
                age(instant(vm.newest_at), now) if vm.newest_at else "none yet",
                str(vm.queued) if vm.queued else "-",
                "running" if vm.running else "stopped",
                duration(vm.frequency),
            )
            for vm in found
        ],
    )
    for vm in found:
        # Below the table: what is wrong must not give way to a narrow terminal.
        for reason in vm.reasons:
            say(console, f"\n{vm.machine}: {reason.text}", style=_style(reason.level))


def _style(level: str) -> str:
    return next((style for one, style in _STYLES.items() if str(one) == level), "")


def _print_detail(vm: results.Vm) -> None:
    console, now = stdout(), datetime.now(UTC)
    newest = "none yet"
    if vm.newest:
        at = instant(vm.newest.at)
        newest = f"{vm.newest.point}, {age(at, now)} ({local(at)} {zone(at)}), {vm.newest.consistency}"
    elif vm.store_problem:
        known = f"{age(instant(vm.newest_at), now)} by the agent; " if vm.newest_at else ""
        newest = f"{known}unknown by the store: {vm.store_problem}"
    retry = ""
    if vm.retry_at:
        at = instant(vm.retry_at)
        retry = f"at {local(at)} {zone(at)}, after {counted(vm.failures, 'failure')}"
    past = vm.interval
    fields(
        console,
        [
            Field("Machine", f"{vm.machine} ({vm.id})"),
            Field("Health", vm.health),
            *(Field("", f"{reason.text}") for reason in vm.reasons),
            Field("State", vm.state + (f" (before: {vm.before_pause})" if vm.before_pause else "")),
            Field("Agent", "running" if vm.running else "stopped: `standby agent run` goes on"),
            Field("Store", vm.store),
            Field("Replica", vm.replica),
            Field("Newest", newest),
            Field("RPO", duration(vm.rpo) if vm.rpo is not None else "unknown"),
            Field("Every", duration(vm.frequency)),
            Field(
                "Interval",
                f"since {local(instant(past.since))}: {counted(past.points, 'point')}, {past.missed} missed, "
                f"{past.late} late; {size(past.stored_average)} each, {duration(past.latency_average)} to commit",
            ),
            Field("Spool", vm.spool or "beside each disk"),
            Field("Encrypted", f"with the key of {vm.key_file}" if vm.encrypted else ""),
            Field("Queue", f"{vm.queued}, {size(vm.queued_bytes)}" if vm.queued else "empty"),
            Field("Error", vm.error),
            Field("Retry", retry),
            Field("Left out", ", ".join(vm.excluded)),
        ],
    )
    console.print()
    if len(vm.targets) > 1:
        print_targets(vm.targets)
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
