"""`standby replica seed`: the start of a replica from image files that were carried to its store."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from standby.block.disk import Disk
from standby.block.images import Format, describe
from standby.cli import results
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Json, advance, print_json, progress, say, stderr, stdout
from standby.cli.quantities import duration, size
from standby.cli.reading import StoreAddress
from standby.cli.replica_retain import Scratch
from standby.clock import SystemClock
from standby.errors import InvalidRequest
from standby.objects.address import open_store
from standby.recovery.image_writer import opened
from standby.replication.seed import seed as seed_replica


class _Copy(NamedTuple):
    disk: str
    format: Format
    path: Path


def seed(
    store: StoreAddress,
    replica: Annotated[str, typer.Argument(metavar="REPLICA", help="The name of the replica to make.")],
    disk: Annotated[
        list[str],
        typer.Option(
            "--disk",
            metavar="ID=[FORMAT:]PATH",
            help="A disk's id (`standby vm check` tells them) and its copy; the format as of `restore`. Repeatable.",
        ),
    ],
    scratch: Scratch = None,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Start a replica from copies of the disks; `vm protect --take-over` then sends only what differs.

    A copy may be old, and of a running machine: no recovery point is made of it. Interrupted, it goes on.
    With a key the replica is encrypted.
    """
    began = time.monotonic()
    copies = [_parse(text) for text in disk]
    if len({copy.disk for copy in copies}) < len(copies):
        raise InvalidRequest("a disk is named twice", subject="--disk", hint="give each disk one copy")
    target = open_store(store)
    with ExitStack() as stack, progress(stderr()) as bar:
        disks: dict[str, Disk] = {}
        for copy in copies:
            length = describe(copy.path, copy.format.driver).virtual_size
            disks[copy.disk] = stack.enter_context(opened(copy.path, copy.format, length, writable=False))
        task = bar.add_task(f"Seeding {replica}", total=sum(one.size for one in disks.values()))
        done = seed_replica(
            target,
            replica,
            disks,
            clock=SystemClock(),
            key=key_of(key_file, passphrase),
            scratch=scratch or Path(tempfile.gettempdir()),
            progress=advance(bar, task),
        )
    result = results.Seeded(
        store=target.url,
        replica=replica,
        disks=tuple(disks),
        read=done.read,
        sent=done.sent,
        seconds=round(time.monotonic() - began, 3),
    )
    if json:
        print_json(result)
        return
    say(
        stdout(),
        f"Seeded {replica} with {size(done.read)} of disks, {size(done.sent)} as stored, in "
        f"{duration(result.seconds)}. Next, at the machine: `standby vm protect` with --take-over.",
    )


def _parse(text: str) -> _Copy:
    """ID=PATH (raw), or ID=FORMAT:PATH. Raises InvalidRequest."""
    disk, _, rest = text.partition("=")
    prefix, colon, path = rest.partition(":")
    known = colon and prefix in set(Format)
    copy = _Copy(disk, Format(prefix), Path(path)) if known else _Copy(disk, Format.RAW, Path(rest))
    if not disk or not rest or not copy.path.exists():
        raise InvalidRequest(
            f"there is no image {copy.path}" if disk and rest else "it is not ID=PATH",
            subject=f"--disk {text}",
            hint=f"write ID=PATH, or ID=FORMAT:PATH with one of {', '.join(Format)}",
        )
    return copy
