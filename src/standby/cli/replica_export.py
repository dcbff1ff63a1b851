"""`standby replica export`: a disk of a point as a page blob, from which Azure makes a managed disk."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Json, advance, print_json, progress, say, stderr, stdout
from standby.cli.quantities import duration, size
from standby.cli.reading import DiskChoice, PointChoice, ReplicaName, StoreAddress, choose, choose_disk


def export(
    store: StoreAddress,
    replica: ReplicaName,
    to: Annotated[
        str, typer.Option("--to", metavar="ADDRESS", help="The blob to write: az://CONTAINER/NAME.vhd.")
    ],
    disk: DiskChoice = None,
    point: PointChoice = "newest",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is there. All of it is lost.")
    ] = False,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Write a disk as it was at a point into Azure, as a fixed VHD for a managed disk. Only data is sent.

    The account is the environment's, its key or a SAS too.
    """
    # Azure's client takes half a second to import, which no other command should pay.
    from standby.recovery.azure_export import export_to_azure  # noqa: PLC0415

    began = time.monotonic()
    chosen = choose(store, replica, point, key_of(key_file, passphrase))
    state = choose_disk(chosen, disk)
    with progress(stderr()) as bar:
        task = bar.add_task(f"Exporting {state.id}", total=state.size)
        done = export_to_azure(
            chosen.log,
            chosen.record,
            state.id,
            to,
            os.environ,
            overwrite=overwrite,
            progress=advance(bar, task),
        )
    result = results.Exported(
        replica=replica,
        point=chosen.record.seq,
        at=chosen.record.at,
        disk=state.id,
        blob=done.blob,
        size=done.size,
        written=done.written,
        seconds=round(time.monotonic() - began, 3),
    )
    if json:
        print_json(result)
        return
    say(
        stdout(),
        f"Exported disk {state.id} of {chosen.title} to {done.blob}: a fixed VHD of {size(done.size)}, "
        f"of which {size(done.written)} data were sent, in {duration(result.seconds)}.",
    )
