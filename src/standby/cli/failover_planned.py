"""`standby failover planned`: a protected machine is shut down and sealed, and may be started here from the seal."""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer
from ulid import ULID

from standby.cli import results
from standby.cli.failover_live import BootLimit, NetworkChoice, NoAgent
from standby.cli.failover_show import root_of, show_live, tell
from standby.cli.machine import AgentSocket, MachineName, NbdSocket, hypervisor_of
from standby.cli.output import Json, print_json, say, stderr, stdout
from standby.cli.reading import newest_point
from standby.cli.state import State, folder_of, made
from standby.clock import SystemClock
from standby.errors import InvalidRequest, StandbyError
from standby.hypervisor.launch import QemuHost
from standby.hypervisor.qemu import QemuHypervisor
from standby.objects.address import open_store
from standby.recovery import live
from standby.recovery.live import Request
from standby.recovery.networks import network_of
from standby.recovery.run_directory import FAILOVERS
from standby.replica.documents import Record
from standby.replication.books import Books, find
from standby.replication.engine import Engine
from standby.replication.relationship import Relationship
from standby.replication.seal import Sealing, Task
from standby.replication.source import CycleReport, Source
from standby.replication.states import State as Stage
from standby.replication.target import Target


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

    Then, on the recovery host: `standby failover unplanned STORE REPLICA`. Where no agent runs.
    """
    # Before the machine is shut down, not after.
    kind, bridge = network_of(network)
    Books.reading(folder_of(state)).close()
    with ExitStack() as stack:
        books = stack.enter_context(closing(Books(folder_of(state))))
        relationship = find(books, machine)
        hypervisor = _hypervisor(relationship, qmp, agent, nbd)
        store = open_store(relationship.store)
        clock = SystemClock()
        source = Source(books, relationship.id, hypervisor, lambda: hypervisor.describe(machine), clock)
        owner = f"standby@{socket.gethostname()}"
        target = Target(books, relationship.id, store, owner, clock, lambda: str(ULID()))
        engine = Engine(books, relationship.id, source, target, clock, _Quiet())
        stack.callback(engine.close)
        Sealing(books, relationship.id, engine, source, target, hypervisor).seal(
            patience=patience,
            limit=shutdown_limit,
            force=lambda: force or _agreed(machine, shutdown_limit, may_ask=not json),
            done=lambda task: None if json else _done(task),
        )
        point = newest_point(store, relationship.replica)
    if start_here:
        request = Request(
            relationship.store,
            relationship.replica,
            boot_limit=None if no_agent else boot_limit,
            network=kind,
            bridge=bridge,
        )
        root = made(root_of(state, FAILOVERS))
        show_live(live.start(request, root, QemuHost(), told=None if json else tell), json)
    else:
        _show(relationship, point, json)


def _hypervisor(
    relationship: Relationship, qmp: Path | None, agent: Path | None, nbd: Path | None
) -> QemuHypervisor:
    """By the sockets that the command names, and those known where it names none. Raises InvalidRequest."""
    known = relationship.connection
    if known is None and qmp is None:
        raise InvalidRequest(
            "it is not known how the machine is reached",
            subject=relationship.machine,
            hint="give its QMP socket with --qmp",
        )
    if known:
        qmp = qmp or Path(known.qmp)
        agent = agent or (Path(known.agent) if known.agent else None)
        nbd = nbd or (Path(known.nbd) if known.nbd else None)
    assert qmp is not None
    return hypervisor_of(relationship.machine, qmp, agent, nbd)


class _Quiet:
    """The engine's observer: the job's tasks tell enough, and what stops it is raised."""

    def state(self, _state: Stage) -> None: ...

    def scanned(self, _disk: str, _count: int) -> None: ...

    def cycle(self, _report: CycleReport) -> None: ...

    def committed(self, _record: Record) -> None: ...

    def failed(self, error: StandbyError) -> None:
        say(stderr(), f"Not now: {error}", style="yellow", indent=9)


def _done(task: Task) -> None:
    say(stderr(), f"{task.value}: done")


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
