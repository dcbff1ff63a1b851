"""`standby failover unplanned` and what follows it: change point, cancel, commit, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import TaskID

from standby.cli import results
from standby.cli.failover_fixup import DryRun, SetAddress, SetHostname, preview
from standby.cli.failover_show import RunDirectory, Yes, confirmed, kind_of, root_of, show_live, tell
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Json, print_json, progress, say, stderr, stdout
from standby.cli.reading import PointChoice, ReplicaName, StoreAddress
from standby.cli.state import State, made
from standby.hypervisor.host import Fetched
from standby.hypervisor.launch import QemuHost
from standby.recovery import failback, fixup_wish, live, networks
from standby.recovery import hydrate as hydrating
from standby.recovery.live import Request
from standby.recovery.networks import network_named
from standby.recovery.run_directory import FAILOVERS
from standby.recovery.split_brain import CONFIRM

NetworkChoice = Annotated[
    str,
    typer.Option(
        "--network",
        metavar="N",
        help="The machine's cards: `isolated`, `none`, `user` (out through this host) or `bridge=NAME`.",
    ),
]
MapChoice = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="SOURCE=N",
        help="Of the cards on this network of the source, or of the card with this MAC address, as --network. "
        "May be repeated.",
    ),
]
MacChoice = Annotated[
    str, typer.Option("--mac", metavar="POLICY", help="`keep` the cards' MAC addresses, or make `new` ones.")
]
NoAgent = Annotated[
    bool, typer.Option("--no-agent", help="The guest has no agent: do not wait for its answer.")
]
SourceQmp = Annotated[
    Path | None,
    typer.Option(
        "--source-qmp",
        metavar="SOCKET",
        help="The QMP socket of the machine where it ran until now, if this host reaches it: asked whether it runs.",
    ),
]
BootLimit = Annotated[float, typer.Option("--boot-limit", help="Seconds to wait for the guest agent.")]


def unplanned(
    store: StoreAddress,
    replica: ReplicaName,
    point: PointChoice = "newest",
    network: NetworkChoice = "isolated",
    mapped: MapChoice = None,
    mac: MacChoice = "keep",
    set_hostname: SetHostname = "",
    set_address: SetAddress = None,
    dry_run: DryRun = False,
    source_qmp: SourceQmp = None,
    source_down: Annotated[
        bool, typer.Option(CONFIRM, help="The source machine was made sure to be off.")
    ] = False,
    state: State = None,
    no_agent: NoAgent = False,
    boot_limit: BootLimit = 300.0,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Start a point's machine in the place of its source, and fence the source's log.

    It can be cancelled or taken to another point until it is committed.
    """
    kind, bridge = network_named(network)
    fix_up = fixup_wish.parse(set_hostname, set_address or ())
    key = key_of(key_file, passphrase)
    if dry_run:
        preview(store, replica, point, key, fix_up, json=json)
        return
    request = Request(
        store,
        replica,
        point,
        None if no_agent else boot_limit,
        kind,
        bridge,
        source_qmp,
        source_down,
        key,
        networks.parse(mapped or (), mac),
        fix_up,
    )
    root = made(root_of(state, FAILOVERS))
    show_live(live.start(request, root, QemuHost(), told=None if json else tell), json)


def resume(run: RunDirectory, json: Json = False) -> None:
    """Go on with a failover that was interrupted, or start its machine again after a restart of this host."""
    show_live(live.resume(run, QemuHost(), told=None if json else tell), json)


def change_point(run: RunDirectory, point: PointChoice, yes: Yes = False, json: Json = False) -> None:
    """Start another point instead. What the guest wrote since the failover is lost."""
    if confirmed(
        f"Change to point {point}?",
        f"What the guest of {run} wrote since its failover is lost.",
        str(run),
        yes=yes,
        may_ask=not json,
    ):
        show_live(live.change_point(run, point, QemuHost(), told=None if json else tell), json)


def cancel(run: RunDirectory, yes: Yes = False, json: Json = False) -> None:
    """End the machine and remove all of the failover. What its guest wrote is lost.

    The source's log stays fenced: `standby vm protect` with --take-over goes on there.
    """
    if not confirmed(
        "Cancel it?",
        f"What the guest of {run} wrote since its failover is lost.",
        str(run),
        yes=yes,
        may_ask=not json,
    ):
        return
    live.cancel(run, QemuHost(), told=None if json else tell)
    if json:
        print_json(results.CleanedUp(run=str(run)))
    else:
        say(
            stdout(),
            "Cancelled: nothing of the failover is left. On the source, `standby vm protect` with --take-over goes on.",
        )


def commit(run: RunDirectory, json: Json = False) -> None:
    """Keep the failed-over machine for good: no other point, no cancelling from here on.

    Of a failback: bring its overlays into the old disks, while the guest runs.
    """
    done = failback.commit if kind_of(run) == "failback" else live.commit
    show_live(done(run, QemuHost()), json)


def hydrate(run: RunDirectory, json: Json = False) -> None:
    """Fetch all of a failed-over machine's disks while it runs, and let go of the store.

    Ctrl-C stops the watching only; the same command looks again, and ends it.
    """
    with progress(stderr(), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(disk: str, far: Fetched) -> None:
            if disk not in tasks:
                tasks[disk] = bar.add_task(f"Fetching {disk}", total=far.total)
            bar.update(tasks[disk], total=far.total, completed=far.done)

        shown = hydrating.hydrate(run, QemuHost(), progress=show)
    show_live(shown, json)
