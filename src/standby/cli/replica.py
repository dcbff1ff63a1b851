"""`standby replica`: what can be done with a store alone, without an agent or a vault."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import typer

from standby.cli import results
from standby.cli.help import Group
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Column, Field, Json, fields, print_json, say, stdout, table
from standby.cli.quantities import age, counted, instant, local, size, zone
from standby.cli.reading import ReplicaName, StoreAddress, machine_name, stored_bytes
from standby.cli.replica_bisect import bisect
from standby.cli.replica_cost import cost
from standby.cli.replica_export import export
from standby.cli.replica_files import copy, files
from standby.cli.replica_holds import holds, release
from standby.cli.replica_points import points
from standby.cli.replica_proofs import proof, proofs
from standby.cli.replica_restore import restore, serve
from standby.cli.replica_retain import merge, retain, sweep
from standby.cli.replica_scrub import scrub
from standby.cli.replica_seed import seed
from standby.cli.replica_verify import verify
from standby.errors import Damaged, StandbyError
from standby.objects.address import open_store
from standby.objects.base import ObjectStore
from standby.replica.journal import ReplicaLog, newest_machine, replica_names
from standby.replica.keys import Key, NotEncrypted, WrongKey
from standby.replica.plan import needed_logs

app = typer.Typer(cls=Group)


@app.command("list")
def list_replicas(
    store: StoreAddress,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """List the replicas in a store."""
    opened = open_store(store)
    key = key_of(key_file, passphrase)
    found = [_summary(opened, name, key) for name in replica_names(opened)]
    if json:
        print_json(found)
    elif not found:
        say(stdout(), f"There is no replica in {opened.url} yet: `standby vm protect` makes one.")
    else:
        _print_summaries(found)
    if any(one.problem for one in found):
        raise typer.Exit(Damaged.exit_status)


app.command()(points)


@app.command()
def show(
    store: StoreAddress,
    replica: ReplicaName,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Show a replica: owner, points, machine, disks, size in the store."""
    log = ReplicaLog.read(open_store(store), replica, key=key_of(key_file, passphrase))
    detail = _detail(log)
    if json:
        print_json(detail)
    else:
        _print_detail(detail)


# Here, as help lists commands in the order of their making.
app.command()(verify)
app.command()(scrub)
app.command()(restore)
app.command()(export)
app.command()(serve)
app.command()(files)
app.command()(copy)
app.command()(seed)
app.command()(retain)
app.command()(merge)
app.command()(sweep)
app.command()(cost)
app.command()(proofs)
app.command()(proof)
app.command()(bisect)
app.command()(holds)
app.command()(release)


def _summary(store: ObjectStore, name: str, key: Key | None) -> results.Replica:
    try:
        log = _read(store, name, key)
    except StandbyError as error:
        # One replica that is damaged must not hide the others.
        return results.Replica(replica=name, problem=f"{error.subject}: {error.cause}")
    newest = log.points[-1] if log.points else None
    return results.Replica(
        replica=name,
        machine=machine_name(log.head, log.records),
        origin=log.head.origin,
        owner=log.head.owner,
        points=len(log.points),
        newest=results.Point.of(newest) if newest else None,
        disks=len(newest.disks) if newest else 0,
        disk_bytes=sum(disk.size for disk in newest.disks) if newest else 0,
        stored=stored_bytes(store, name),
        encrypted=log.head.encrypted,
    )


def _read(store: ObjectStore, name: str, key: Key | None) -> ReplicaLog:
    """A store may hold replicas of many keys, and of none; what can be listed without the key is."""
    try:
        return ReplicaLog.read(store, name, key=key)
    except (NotEncrypted, WrongKey):
        return ReplicaLog.read(store, name)


def _print_summaries(found: list[results.Replica]) -> None:
    now = datetime.now(UTC)
    console = stdout()
    table(
        console,
        [
            Column("Replica"),
            Column("Newest point", right=True),
            Column("Points", priority=2, right=True),
            Column("Disks", priority=3, right=True),
            Column("Size", priority=4, right=True),
            Column("Stored", priority=1, right=True),
            Column("From", priority=5),
        ],
        [
            (
                one.replica,
                age(instant(one.newest.at), now) if one.newest else "none yet",
                str(one.points),
                str(one.disks),
                size(one.disk_bytes),
                size(one.stored),
                one.origin,
            )
            if not one.problem
            else (one.replica, "unreadable", "", "", "", "", "")
            for one in found
        ],
    )
    for one in found:
        if one.problem:
            say(console, f"\n{one.replica} cannot be read: {one.problem}", style="red")


def _detail(log: ReplicaLog) -> results.ReplicaDetail:
    head, machine = log.head, newest_machine(log.records)
    newest = log.points[-1] if log.points else None
    last = newest or (log.records[-1] if log.records else None)
    formats = {disk.id: disk.format for disk in machine.disks} if machine else {}
    needed = needed_logs(head, log.records)
    logs = {
        disk.id: [one.log for one in needed if one.disk == disk.id] for disk in (last.disks if last else ())
    }
    return results.ReplicaDetail(
        replica=head.name,
        id=str(head.replica),
        store=log.place.store.url,
        machine=machine.name if machine else "",
        machine_uuid=machine.uuid if machine else "",
        memory=machine.memory if machine else 0,
        cpus=machine.cpus if machine else 0,
        firmware=machine.firmware if machine else "",
        origin=head.origin,
        created=head.created,
        owner=head.owner,
        epoch=head.epoch,
        floor=head.floor,
        records=len(log.records),
        points=len(log.points),
        oldest=results.Point.of(log.points[0]) if log.points else None,
        newest=results.Point.of(newest) if newest else None,
        stored=stored_bytes(log.place.store, log.place.name),
        disks=tuple(
            results.ReplicaDisk(
                id=disk.id,
                size=disk.size,
                format=formats.get(disk.id, ""),
                logs=len(logs[disk.id]),
                changed=sum(one.data for one in logs[disk.id]),
                stored=sum(one.size for one in logs[disk.id]),
            )
            for disk in (last.disks if last else ())
        ),
        holds=tuple(results.Hold.of(hold) for hold in head.holds),
        keys=tuple(results.ReplicaKey.of(one) for one in head.wrapped),
    )


def _opened_by(keys: Sequence[results.ReplicaKey]) -> str:
    names = ", ".join(f"{'key' if one.kind == 'file' else 'passphrase'} {one.key}" for one in keys)
    return f"opened by {names}" if names else ""


def _print_detail(detail: results.ReplicaDetail) -> None:
    console, now = stdout(), datetime.now(UTC)

    def told(point: results.Point | None) -> str:
        if point is None:
            return "none yet"
        at = instant(point.at)
        return f"{point.point}, {age(at, now)} ({local(at)} {zone(at)}), {point.consistency}"

    hardware = (
        f"{detail.machine}, {counted(detail.cpus, 'CPU')}, {size(detail.memory)} memory, {detail.firmware} boot"
        if detail.memory
        else f"{detail.machine} (disks only)"
        if detail.machine
        else ""
    )
    created = instant(detail.created)
    fields(
        console,
        [
            Field("Replica", f"{detail.replica} ({detail.id})"),
            Field("Store", detail.store),
            Field("Machine", hardware),
            Field("From", detail.origin),
            Field("Created", f"{local(created)} {zone(created)}"),
            Field("Owner", f"{detail.owner or 'nobody yet'}, epoch {detail.epoch}"),
            Field("Points", f"{detail.points} ({counted(detail.records, 'record')} from {detail.floor} on)"),
            Field("Oldest", told(detail.oldest) if detail.points > 1 else ""),
            Field("Newest", told(detail.newest)),
            Field("Stored", size(detail.stored)),
            Field("Encrypted", _opened_by(detail.keys)),
            *(Field("In use", f"point {hold.point}, by {hold.by}") for hold in detail.holds),
        ],
    )
    if detail.disks:
        console.print()
        table(
            console,
            [
                Column("Disk"),
                Column("Size", right=True),
                Column("Format", priority=2),
                Column("Logs", priority=1, right=True),
                Column("Changed", priority=3, right=True),
                Column("Stored", right=True),
            ],
            [
                (d.id, size(d.size), d.format or "-", str(d.logs), size(d.changed), size(d.stored))
                for d in detail.disks
            ],
        )
