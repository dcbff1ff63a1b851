"""`standby replica files` and `copy`: single files out of a point, without starting its machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Column, Json, print_json, say, stderr, stdout, table
from standby.cli.quantities import counted, duration, local, size, zone
from standby.cli.reading import Chosen, PointChoice, ReplicaName, StoreAddress, choose, choose_disk
from standby.recovery.files import File, Files, open_files

_WHY = {"unknown": "nothing that is known here", "swap": "holds no files"}

OneDisk = Annotated[
    str | None,
    typer.Option("--disk", metavar="D", help="Look at this disk only [default: all of the machine's]."),
]


def files(
    store: StoreAddress,
    replica: ReplicaName,
    path: Annotated[
        str, typer.Argument(metavar="[PATH]", help="E.g. vda1/etc; without it, the file systems are listed.")
    ] = "",
    disk: OneDisk = None,
    point: PointChoice = "newest",
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """List the file systems of a point, or the files at a path in one. Needs guestfish.

    A path begins with the name of a file system, as the list without a path tells it: vda1/etc/hosts.
    """
    chosen = choose(store, replica, point, key_of(key_file, passphrase))
    with _opened(chosen, disk) as opened:
        found = opened.look(path) if path else []
    result = results.Files(
        replica=replica,
        point=chosen.record.seq,
        at=chosen.record.at,
        file_systems=()
        if path
        else tuple(
            results.FileSystem(name=one.name, type=one.type, readable=one.mounted)
            for one in opened.file_systems
        ),
        files=tuple(_result(one) for one in found),
    )
    if json:
        print_json(result)
    elif path:
        _print_files(found)
    else:
        _print_file_systems(chosen, result)


def copy(
    store: StoreAddress,
    replica: ReplicaName,
    paths: Annotated[
        list[str], typer.Argument(metavar="PATH", help="Files or whole directories, e.g. vda1/etc.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The directory to copy into.")],
    disk: OneDisk = None,
    point: PointChoice = "newest",
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Copy files and directories out of a point. Nothing is replaced. Needs guestfish.

    Modes, times, links, extended attributes and holes are kept, owners where root runs it.
    """
    began = time.monotonic()
    chosen = choose(store, replica, point, key_of(key_file, passphrase))
    with _opened(chosen, disk) as opened:
        copied = opened.copy(paths, to)
    result = results.CopiedFiles(
        replica=replica,
        point=chosen.record.seq,
        at=chosen.record.at,
        copied=tuple(map(str, copied)),
        seconds=round(time.monotonic() - began, 3),
    )
    if json:
        print_json(result)
        return
    say(
        stdout(),
        f"Copied {counted(len(copied), 'path')} of {chosen.title} to {to}, in {duration(result.seconds)}.",
    )


@contextmanager
def _opened(chosen: Chosen, disk: str | None) -> Iterator[Files]:
    disks = [choose_disk(chosen, disk)] if disk else chosen.record.disks
    # A small machine has to start first, which takes half a minute without the processor's help.
    with ExitStack() as stack:
        with stderr().status("Opening the file systems") if stderr().is_terminal else nullcontext():
            opened = stack.enter_context(open_files(chosen.log, chosen.record, [one.id for one in disks]))
        yield opened


def _result(file: File) -> results.File:
    return results.File(
        path=file.path,
        kind=file.kind,
        size=file.size,
        mode=file.mode,
        owner=file.owner,
        group=file.group,
        modified=datetime.fromtimestamp(file.modified, UTC).isoformat(),
        target=file.target,
    )


def _print_files(found: list[File]) -> None:
    now = datetime.now(UTC)
    table(
        stdout(),
        [
            Column("Mode", priority=2),
            Column("Owner", priority=3, right=True),
            Column("Size", priority=1, right=True),
            Column(f"Modified ({zone(now)})", priority=4),
            Column("Path", whole=True),
        ],
        [
            (
                one.mode,
                f"{one.owner}:{one.group}",
                size(one.size) if one.kind == "file" else "",
                local(datetime.fromtimestamp(one.modified, UTC)),
                f"{one.path} -> {one.target}" if one.target else one.path,
            )
            for one in found
        ],
    )


def _print_file_systems(chosen: Chosen, result: results.Files) -> None:
    if not result.file_systems:
        say(stdout(), f"{chosen.title} holds no file system that is known here.")
        return
    table(
        stdout(),
        [Column("File system", whole=True), Column("Type"), Column("Note")],
        [
            (one.name, one.type, "" if one.readable else _WHY.get(one.type, "cannot be read from outside"))
            for one in result.file_systems
        ],
    )
