"""`standby replica retain`, `merge`, `sweep`: let points go, fold what they leave, delete what nothing needs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Column, Json, print_json, say, stdout, table
from standby.cli.quantities import counted, instant, local, size, zone
from standby.cli.reading import ReplicaName, StoreAddress
from standby.clock import SystemClock
from standby.objects.address import open_store
from standby.replica.journal import ReplicaLog
from standby.replica.merge import MergeResult, floor_only
from standby.replica.merge import merge as merge_replica
from standby.replica.merge_plan import AT_ONCE, WORTHWHILE, Range, plan_ranges
from standby.replica.retention import Tier, Verdict, decide, parse_tier
from standby.replica.sweep import Swept
from standby.replica.sweep import sweep as sweep_replica

Scratch = Annotated[
    Path | None,
    typer.Option(
        "--scratch",
        metavar="DIR",
        help="Where to put layers together [default: the system's temporary directory].",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and do nothing.")]


def retain(
    store: StoreAddress,
    replica: ReplicaName,
    keep: Annotated[
        list[str],
        typer.Option(
            "--keep",
            metavar="T",
            help="A tier HOW-OFTEN:HOW-LONG, as all:2h, 1h:3d, 1d:30d; repeat it. Units s, m, h, d, w.",
        ),
    ],
    dry_run: DryRun = False,
    scratch: Scratch = None,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Decide which points stay and why; fold and delete the others where it is worth it."""
    tiers = [parse_tier(text) for text in keep]
    opened = open_store(store)
    key = key_of(key_file, passphrase)
    log = ReplicaLog.read(opened, replica, key=key)
    verdicts = _verdicts(log, tiers)
    stays = {verdict.point.seq for verdict in verdicts if verdict.keep}
    result = results.Retention(
        replica=replica,
        keep=tuple(str(tier) for tier in tiers),
        points=tuple(_verdict(verdict) for verdict in verdicts),
        folds=_folded(plan_ranges(log.head, log.records, stays, WORTHWHILE)),
    )
    if not dry_run:
        merged = merge_replica(
            opened,
            replica,
            lambda log: {verdict.point.seq for verdict in _verdicts(log, tiers) if verdict.keep},
            scratch=scratch or Path(tempfile.gettempdir()),
            key=key,
        )
        result.merge = _merge(replica, merged)
        result.swept = _swept(replica, sweep_replica(opened, replica))
    if json:
        print_json(result)
    else:
        _print(result)


def merge(
    store: StoreAddress,
    replica: ReplicaName,
    to: Annotated[
        str, typer.Option("--to", metavar="P", help="The oldest point that stays: a number, or `newest`.")
    ],
    scratch: Scratch = None,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Fold all that is older than a point into it, at once. Older points can no longer be opened."""
    opened = open_store(store)
    key = key_of(key_file, passphrase)
    point = ReplicaLog.read(opened, replica, key=key).point(to)
    merged = merge_replica(
        opened,
        replica,
        floor_only(point.seq),
        scratch=scratch or Path(tempfile.gettempdir()),
        thresholds=AT_ONCE,
        key=key,
    )
    told = _merge(replica, merged)
    if json:
        print_json(told)
    else:
        if not told.ranges:
            say(stdout(), f"There is nothing older than point {point.seq}, or a reader holds it.")
        else:
            _say_merge(told)
            say(
                stdout(),
                f"`standby replica sweep {opened.url} {replica}` deletes what it replaced.",
            )


def sweep(store: StoreAddress, replica: ReplicaName, dry_run: DryRun = False, json: Json = False) -> None:
    """Delete what merges replaced and what no record names. Needs the right to delete."""
    told = _swept(replica, sweep_replica(open_store(store), replica, dry_run=dry_run))
    if json:
        print_json(told)
    else:
        _say_swept(told, dry_run)


def _verdicts(log: ReplicaLog, tiers: Sequence[Tier]) -> list[Verdict]:
    return decide(log.points, tiers, SystemClock().now(), log.head.holds)


def _verdict(verdict: Verdict) -> results.RetentionVerdict:
    return results.RetentionVerdict(
        point=verdict.point.seq,
        at=verdict.point.at,
        consistency=verdict.point.consistency,
        keep=verdict.keep,
        reasons=verdict.reasons,
    )


def _folded(ranges: Sequence[Range]) -> tuple[results.Folded, ...]:
    return tuple(results.Folded(first=one.first, last=one.last) for one in ranges)


def _merge(replica: str, merged: MergeResult) -> results.Merge:
    return results.Merge(
        replica=replica,
        ranges=_folded(merged.ranges),
        layers=merged.layers,
        written=merged.written,
        taken_over=merged.taken_over,
    )


def _swept(replica: str, swept: Swept) -> results.Swept:
    return results.Swept(replica=replica, **swept._asdict())


def _print(result: results.Retention) -> None:
    console = stdout()
    if not result.points:
        say(console, f"{result.replica} has no recovery point yet.")
        return
    now = datetime.now().astimezone()
    table(
        console,
        [
            Column("Point", right=True),
            Column(f"Time ({zone(now)})", priority=1),
            Column(""),
            Column("Why"),
        ],
        [
            (
                str(one.point),
                local(instant(one.at)),
                "keep" if one.keep else "drop",
                "; ".join(one.reasons),
            )
            for one in result.points
        ],
    )
    console.print()
    kept = sum(one.keep for one in result.points)
    say(
        console,
        f"{counted(kept, 'point')} of {len(result.points)} stay: {'; '.join(result.keep)}.",
    )
    if result.merge is None or result.swept is None:
        say(
            console,
            f"Nothing was done. Now {counted(len(result.folds), 'range')} would be folded; "
            "a dropped point can be opened until it is folded.",
        )
        return
    _say_merge(result.merge)
    _say_swept(result.swept, dry_run=False)


def _say_merge(told: results.Merge) -> None:
    if not told.ranges:
        say(stdout(), "Nothing was folded: what could be is not worth writing yet.")
        return
    ranges = ", ".join(f"{one.first + 1}-{one.last}" for one in told.ranges)
    over = f", {counted(told.taken_over, 'layer')} taken over as they were" if told.taken_over else ""
    say(
        stdout(),
        f"Folded records {ranges} into {counted(told.layers, 'layer')} of {size(told.written)}{over}.",
    )


def _say_swept(told: results.Swept, dry_run: bool) -> None:
    say(
        stdout(),
        f"{'Would delete' if dry_run else 'Deleted'} {counted(told.logs, 'log')}, "
        f"{counted(told.layers, 'layer')} and {counted(told.records, 'record')}: {size(told.bytes)}"
        + (f"; {counted(told.proofs, 'object')} of proofs" if told.proofs else "")
        + ".",
    )
    for reason in told.waiting:
        say(stdout(), f"Waiting: {reason}.", indent=2)
