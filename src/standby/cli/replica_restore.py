"""`standby replica restore` and `serve`: a disk of a point as a file, or over NBD."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from standby.block.images import Format
from standby.block.serve import serve as serve_disk
from standby.cli import results
from standby.cli.foreground import stopping
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Field, Json, advance, fields, print_json, progress, say, stderr, stdout
from standby.cli.quantities import age, duration, instant, size
from standby.cli.reading import (
    Chosen,
    DiskChoice,
    PointChoice,
    ReplicaName,
    StoreAddress,
    choose,
    choose_disk,
)
from standby.clock import SystemClock
from standby.recovery.export import export
from standby.recovery.image_source import OPEN_POINT


def restore(
    store: StoreAddress,
    replica: ReplicaName,
    to: Annotated[Path, typer.Option("--to", metavar="PATH", help="The file or block device to write.")],
    disk: DiskChoice = None,
    point: PointChoice = "newest",
    format: Annotated[Format, typer.Option("--format", help="Of the image.")] = Format.RAW,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there. All of it is lost.")
    ] = False,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Copy a disk as it was at a point into an image file or onto a block device."""
    began = time.monotonic()
    chosen = choose(store, replica, point, key_of(key_file, passphrase))
    state = choose_disk(chosen, disk)
    with progress(stderr(), transient=True) as bar:
        task = bar.add_task(f"Restoring {state.id}", total=state.size)
        copied = export(
            chosen.log,
            chosen.record,
            state.id,
            to,
            format,
            overwrite=overwrite,
            progress=advance(bar, task),
        )
    result = results.Restored(
        replica=replica,
        point=chosen.record.seq,
        at=chosen.record.at,
        disk=state.id,
        path=str(to),
        format=format.value,
        size=state.size,
        written=copied.written,
        seconds=round(time.monotonic() - began, 3),
    )
    if json:
        print_json(result)
        return
    say(
        stdout(),
        f"Restored disk {state.id} of {chosen.title} ({_age(chosen)}) to {to}: {format.value}, "
        f"{size(state.size)}, of which {size(copied.written)} data, in {duration(result.seconds)}.",
    )


def serve(
    store: StoreAddress,
    replica: ReplicaName,
    disk: DiskChoice = None,
    point: PointChoice = "newest",
    socket: Annotated[
        Path | None,
        typer.Option("--socket", metavar="PATH", help="The Unix socket [default: in a new directory]."),
    ] = None,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Serve a disk as it was at a point over NBD, read-only, until Ctrl-C."""
    chosen = choose(store, replica, point, key_of(key_file, passphrase))
    state = choose_disk(chosen, disk)
    with ExitStack() as stack:
        stop = stack.enter_context(stopping())
        if socket is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="standby-"))
            socket = Path(folder) / f"{state.id}.nbd"
        order = {
            "store": chosen.log.place.store.url,
            "replica": replica,
            "point": str(chosen.record.seq),
            "disk": state.id,
            "data_key": cipher.data_key.hex() if (cipher := chosen.log.cipher()) else "",
        }
        served = stack.enter_context(serve_disk(OPEN_POINT, order, socket.absolute()))
        result = results.Serving(
            replica=replica,
            point=chosen.record.seq,
            at=chosen.record.at,
            disk=state.id,
            size=state.size,
            uri=served.uri,
            socket=str(served.socket),
            pid=served.pid,
        )
        if json:
            print_json(result, line=True)
        else:
            _print_serving(chosen, result)
        while not stop.wait(0.5):
            served.check()


def _print_serving(chosen: Chosen, result: results.Serving) -> None:
    console = stdout()
    say(
        console,
        f"Serving disk {result.disk} of {chosen.title} ({_age(chosen)}), {size(result.size)}, read-only. "
        "Ctrl-C ends it.",
    )
    fields(
        console,
        [
            Field("URI", result.uri),
            Field("Look", f"qemu-img info '{result.uri}'"),
            Field("Copy", f"nbdcopy '{result.uri}' {result.disk}.img"),
        ],
    )


def _age(chosen: Chosen) -> str:
    return age(instant(chosen.record.at), SystemClock().now())
