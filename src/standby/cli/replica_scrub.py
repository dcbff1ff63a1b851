"""`standby replica scrub`: look for damage in everything that a replica consists of."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from standby.cli import results
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Json, advance, print_json, progress, say, stderr, stdout
from standby.cli.quantities import counted, duration, ranges, size
from standby.cli.reading import ReplicaName, StoreAddress, reader, stored_bytes
from standby.errors import Damaged, InvalidRequest
from standby.objects.address import open_store
from standby.objects.base import ObjectStore
from standby.replica.journal import Place, hold, read_head
from standby.replica.scrub import ScrubFinding, ScrubResult, Seen
from standby.replica.scrub import scrub as scrub_replica


def scrub(
    store: StoreAddress,
    replica: ReplicaName,
    fraction: Annotated[
        float,
        typer.Option(
            "--fraction",
            metavar="F",
            min=0.0,
            max=1.0,
            help="The share of objects to read in full; presence, length and the chain are always checked.",
        ),
    ] = 1.0,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="Draws which objects; another number, others.")
    ] = 0,
    seen: Annotated[
        Path | None,
        typer.Option(
            "--seen",
            metavar="FILE",
            help="What the last scrub saw: read if there, written at the end. With it a head that was rolled back "
            "and a newest record that is gone are found too.",
        ),
    ] = None,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Check every record, reference and log; tell each damage with the points it touches and the way out."""
    opened = open_store(store)
    key = key_of(key_file, passphrase)
    began = time.monotonic()
    with _held(opened, replica), progress(stderr()) as bar:
        task = bar.add_task(replica, total=stored_bytes(opened, replica) * fraction)
        result = scrub_replica(
            opened,
            replica,
            fraction=fraction,
            seed=seed,
            seen=_read(seen),
            progress=advance(bar, task),
            key=key,
        )
    if seen and result.seen and not result.findings:
        seen.write_bytes(msgspec.json.encode(result.seen))
    told = _told(replica, result, round(time.monotonic() - began, 3))
    if json:
        print_json(told)
    else:
        _print(told)
    if told.damaged:
        raise typer.Exit(Damaged.exit_status)


def _held(store: ObjectStore, replica: str) -> AbstractContextManager[bool]:
    """Keep what is read from being merged away. A head that cannot be read is for the scrub to tell."""
    place = Place(store, replica)
    try:
        head, _ = read_head(place)
    except (Damaged, InvalidRequest):
        return nullcontext(False)
    return hold(place, head.floor, reader("replica scrub"))


def _read(seen: Path | None) -> Seen | None:
    if seen is None or not seen.exists():
        return None
    try:
        return msgspec.json.decode(seen.read_bytes(), type=Seen)
    except msgspec.DecodeError as error:
        raise InvalidRequest(
            f"it is not what a scrub wrote: {error}",
            subject=str(seen),
            hint="name another file with --seen, or remove it",
        ) from error


def _told(replica: str, result: ScrubResult, seconds: float) -> results.Scrubbed:
    return results.Scrubbed(
        replica=replica,
        records=result.records,
        logs=result.logs,
        read=result.read,
        bytes=result.bytes,
        seconds=seconds,
        damaged=bool(result.findings),
        findings=tuple(_finding(one) for one in result.findings),
        unproved=result.unproved,
    )


def _finding(one: ScrubFinding) -> results.ScrubDamage:
    return results.ScrubDamage(**one._asdict())


def _print(told: results.Scrubbed) -> None:
    console = stdout()
    if told.unproved:
        say(console, f"Not proved, {told.unproved}.", style="yellow")
    extent = (
        f"{counted(told.records, 'record')}, {counted(told.logs, 'log')}, "
        f"{counted(told.read, 'object')} read in full, {size(told.bytes)} in {duration(told.seconds)}"
    )
    if not told.damaged:
        say(console, f"{told.replica}: sound ({extent}).", style="green")
        return
    found = counted(len(told.findings), "problem")
    say(console, f"{told.replica}: DAMAGED, {found} ({extent}).", style="bold red")
    for one in told.findings:
        console.print()
        console.print(one.object, style="bold", soft_wrap=True)
        say(console, f"  {one.kind}: {one.cause}", indent=4)
        if one.points:
            noun = "point" if len(one.points) == 1 else "points"
            say(console, f"  touches {noun} {ranges(one.points)}", indent=4)
        say(console, f"  Next: {one.advice}.", indent=4)
