"""`standby failover planned`: a protected machine is shut down and sealed, and may be started here from the seal."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.failover_live import BootLimit, NetworkChoice, NoAgent
from standby.cli.failover_show import root_of, show_live, tell
from standby.cli.machine import AgentSocket, MachineName, NbdSocket, connection_of
from standby.cli.output import Json, print_json, say, stderr, stdout
from standby.cli.reading import newest_point
from standby.cli.sealing import Sealer
from standby.cli.state import State, folder_of, made
from standby.hypervisor.launch import QemuHost
from standby.link.requests import Seal
from standby.objects.address import open_store
from standby.recovery import live
from standby.recovery.live import Request
from standby.recovery.networks import network_named
from standby.recovery.run_directory import FAILOVERS
from standby.replica.documents import Record
from standby.replica.keys import remembered
from standby.replication.books import Books, find
from standby.replication.relationship import Relationship


def planned(
    machine: MachineName,
    qmp: Annotated[
        Path | None,
        typer.Option("--qmp", metavar="SOCKET", help="Its QMP socket [default: the one it is protected by]."),
    ] = None,
    agent: AgentSocket = None,
    nbd: NbdSocket = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Stop a guest that does not shut down, as by a power cut. Do not ask."),
    ] = False,
    shutdown_limit: Annotated[
        float, typer.Option("--shutdown-limit", help="Seconds for the guest to shut down.")
    ] = 120.0,
    patience: Annotated[
        float, typer.Option("--patience", help="Seconds for the replica to catch up.")
    ] = 600.0,
    start_here: Annotated[
        bool, typer.Option("--start-here", help="Then start the machine on this host from its replica.")
    ] = False,
    network: NetworkChoice = "isolated",
    state: State = None,
    no_agent: NoAgent = False,
    boot_limit: BootLimit = 300.0,
    json: Json = False,
) -> None:
    """Shut a protected machine down and seal its replica with its last write: nothing is lost.

    Its agent does it where one runs. Then, on the recovery host: `standby failover unplanned STORE REPLICA`.
    """
    # Before the machine is shut down, not after.
    kind, bridge = network_named(network)
    folder = folder_of(state)
    with closing(Books.reading(folder)) as books:
        relationship = find(books, machine)
    request = Seal(
        machine=machine,
        connection=connection_of(machine, relationship.connection, qmp, agent, nbd, None),
        force=force,
        shutdown_limit=shutdown_limit,
        patience=patience,
    )
    with Sealer(folder) as sealer:
        sealer.seal(
            request,
            lambda: _agreed(machine, shutdown_limit, may_ask=not json),
            lambda task: None if json else say(stderr(), f"{task}: done"),
        )
    point = newest_point(open_store(relationship.store), relationship.replica)
    if start_here:
        wanted = Request(
            relationship.store,
            relationship.replica,
            boot_limit=None if no_agent else boot_limit,
            network=kind,
            bridge=bridge,
            key=remembered(relationship.key_file),
        )
        root = made(root_of(state, FAILOVERS))
        show_live(live.start(wanted, root, QemuHost(), told=None if json else tell), json)
    else:
        _show(relationship, point, json)


def _agreed(machine: str, limit: float, *, may_ask: bool) -> bool:
    if not (may_ask and sys.stdin.isatty()):
        return False
    say(stderr(), f"The guest of {machine} did not shut down within {limit:g} s.", style="yellow")
    return typer.confirm("Stop it now, as a power cut would? What is on its disks is kept", err=True)


def _show(relationship: Relationship, point: Record | None, json: bool) -> None:
    seq, at = (point.seq, point.at) if point else (0, "")
    if json:
        print_json(
            results.Sealed(
                machine=relationship.machine,
                store=relationship.store,
                replica=relationship.replica,
                point=seq,
                at=at,
            )
        )
        return
    say(
        stdout(),
        f"{relationship.machine} is off, and its last write is in point {seq} of {relationship.replica}. On the "
        f"recovery host: `standby failover unplanned {relationship.store} {relationship.replica}`.",
    )
