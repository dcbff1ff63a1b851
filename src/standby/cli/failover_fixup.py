"""`--set-hostname`, `--set-address` and `--dry-run` of `standby failover test` and `unplanned`."""

from __future__ import annotations

from typing import Annotated

import typer

from standby.cli import results
from standby.cli.output import print_json, say, stdout
from standby.errors import InvalidRequest
from standby.objects.address import open_store
from standby.recovery import fixup_step
from standby.recovery.fixup_wish import FixUp
from standby.replica.journal import ReplicaLog
from standby.replica.keys import Key

SetHostname = Annotated[
    str, typer.Option("--set-hostname", metavar="NAME", help="The Linux guest's host name. Needs guestfish.")
]
SetAddress = Annotated[
    list[str] | None,
    typer.Option(
        "--set-address",
        metavar="CARD=ADDRESS/PREFIX",
        help="Static addresses of a Linux guest's card, named by its interface or MAC address; behind them perhaps "
        "`,gateway=ADDRESS` and `,dns=ADDRESS`. May be repeated. Needs guestfish.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Only tell what --set-hostname and --set-address would change in the guest's files."
    ),
]


def preview(store: str, replica: str, point: str, key: Key | None, wish: FixUp, *, json: bool) -> None:
    """Tell what would be changed. Raises InvalidRequest where nothing is asked for."""
    if not wish.wanted:
        raise InvalidRequest(
            "nothing is to be changed in the guest",
            subject="--dry-run",
            hint="add --set-hostname or --set-address",
        )
    edits = fixup_step.preview(ReplicaLog.read(open_store(store), replica, key=key), point, wish)
    if json:
        print_json(
            results.FixUpPreview(
                replica=replica,
                files=tuple(
                    results.FixUpFile(path=edit.path, difference=tuple(edit.difference())) for edit in edits
                ),
            )
        )
    elif not edits:
        say(stdout(), "Nothing would be changed: the guest has this name and these addresses.")
    else:
        for edit in edits:
            for line in edit.difference():
                say(stdout(), line)
