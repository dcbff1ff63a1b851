"""`standby replica verify`: prove points, and say what is damaged."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Json, advance, print_json, progress, say, stderr, stdout
from standby.cli.quantities import counted, duration, ranges, size
from standby.cli.reading import ReplicaName, StoreAddress, choose, reader
from standby.errors import Damaged, InvalidRequest
from standby.objects.address import open_store
from standby.replica.documents import Record
from standby.replica.journal import ReplicaLog, hold
from standby.replica.keys import Key
from standby.replica.plan import needed_logs
from standby.replica.verify import DamageFinding, Proof, verify_logs, verify_point

_MOST = 20
"""Problems of one object that are told to a person; --json tells all."""


def verify(
    store: StoreAddress,
    replica: ReplicaName,
    point: Annotated[
        str | None,
        typer.Option(
            "--point",
            metavar="P",
            help="A point's number, `newest` (the default), or `newest-application` (-consistent).",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Prove every recovery point, not only one.")] = False,
    logs: Annotated[
        bool, typer.Option("--logs", help="Also compare every log with its SHA-256, as it is stored.")
    ] = False,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Read a point's disks and compare every block with its hash. Damage is told by object and block."""
    if every and point:
        raise InvalidRequest(
            "--all and --point contradict each other", subject="standby replica verify", hint="give one"
        )
    began = time.monotonic()
    key = key_of(key_file, passphrase)
    log, records = _chosen(store, replica, point, every, key)
    with hold(log.place, records[0].seq, reader("replica verify")):
        # Between the first reading and the hold, a merge may have moved the floor.
        log, records = _chosen(store, replica, point if not point else str(records[0].seq), every, key)
        proofs = _prove(log, records, logs)
    result = results.Verification(
        replica=log.place.name,
        points=tuple(record.seq for record in records),
        records=len(log.records),
        logs=max(proof.logs for proof in proofs),
        bytes=sum(proof.bytes for proof in proofs),
        seconds=round(time.monotonic() - began, 3),
        damaged=any(proof.findings for proof in proofs),
        findings=_merged(finding for proof in proofs for finding in proof.findings),
    )
    if json:
        print_json(result)
    else:
        _print(result)
    if result.damaged:
        raise typer.Exit(Damaged.exit_status)


def _chosen(
    store: str, replica: str, point: str | None, every: bool, key: Key | None
) -> tuple[ReplicaLog, list[Record]]:
    if every:
        log = ReplicaLog.read(open_store(store), replica, key=key)
        log.cipher()
        # Fails where there is none, as for a single point.
        return log, log.points if log.points else [log.point()]
    chosen = choose(store, replica, point or "newest", key)
    return chosen.log, [chosen.record]


def _prove(log: ReplicaLog, records: list[Record], logs: bool) -> list[Proof]:
    sizes = [sum(disk.size for disk in record.disks) for record in records]
    with progress(stderr(), transient=True) as bar:
        proofs = []
        task = bar.add_task("", total=sum(sizes))
        for number, record in enumerate(records):
            which = f" ({number + 1} of {len(records)})" if len(records) > 1 else ""
            # What was damaged was not looked at to its end; the bar goes on from where the point ends.
            bar.update(task, description=f"Point {record.seq}{which}", completed=sum(sizes[:number]))
            proofs.append(verify_point(log, record, progress=advance(bar, task)))
        bar.update(task, completed=sum(sizes))
        if logs:
            total = sum(one.log.size for one in needed_logs(log.head, log.records))
            proofs.append(verify_logs(log, progress=advance(bar, bar.add_task("Logs", total=total))))
    return proofs


def _merged(findings: Iterable[DamageFinding]) -> tuple[results.Damage, ...]:
    """Each problem once, with all points that it touches."""
    found: dict[tuple[str, str], set[int]] = {}
    for subject, problem, points in findings:
        found.setdefault((subject, problem), set()).update(points)
    return tuple(
        results.Damage(object=subject, problem=problem, points=tuple(sorted(points)))
        for (subject, problem), points in found.items()
    )


def _print(result: results.Verification) -> None:
    console = stdout()
    what = f"{result.replica}, {'point' if len(result.points) == 1 else 'points'} {ranges(result.points)}"
    extent = (
        f"{counted(result.records, 'record')}, {counted(result.logs, 'log')}, {size(result.bytes)} of disks "
        f"in {duration(result.seconds)}"
    )
    if not result.damaged:
        say(console, f"{what}: sound ({extent}).", style="green")
        return
    objects: dict[str, list[results.Damage]] = {}
    for one in result.findings:
        objects.setdefault(one.object, []).append(one)
    found = f"{counted(len(result.findings), 'problem')} in {counted(len(objects), 'object')}"
    say(console, f"{what}: DAMAGED, {found} ({extent}).", style="bold red")
    for name, problems in objects.items():
        console.print()
        console.print(name, style="bold", soft_wrap=True)
        for one in problems[:_MOST]:
            say(console, f"  {one.problem}", indent=4)
        if len(problems) > _MOST:
            say(console, f"  and {len(problems) - _MOST} more (--json lists all)", indent=4)
        points = {point for one in problems for point in one.points}
        say(console, f"  touches {'point' if len(points) == 1 else 'points'} {ranges(points)}", indent=4)
    console.print()
    say(console, f"Next  {_next(result)}", indent=6)


def _next(result: results.Verification) -> str:
    """What an operator does about the damage."""
    touched = {point for one in result.findings for point in one.points}
    sound = [point for point in result.points if point not in touched]
    if sound:
        old = f"What was proved sound can be restored and started: {ranges(sound)}."
    elif len(result.points) == 1:
        old = "An older point may be whole: `--all` tells."
    else:
        old = "None of these points is whole; disks without damage can still be restored."
    return (
        f"{old} If the machine still runs, give it a new replica: `standby vm unprotect`, "
        "then `standby vm protect` with another name or store."
    )
