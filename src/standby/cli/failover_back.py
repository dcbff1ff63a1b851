"""`standby failover reverse`, `failback` and `complete`: the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from standby.block.images import Format
from standby.cli.failover_live import BootLimit, NetworkChoice, NoAgent, SourceQmp
from standby.cli.failover_show import RunDirectory, root_of, show_live, tell
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.output import Json
from standby.cli.reading import ReplicaName, StoreAddress
from standby.cli.state import State, made
from standby.cli.vm_protect import protect
from standby.errors import InvalidRequest
from standby.hypervisor.launch import QemuHost
from standby.recovery import failback as failing_back
from standby.recovery import live_view
from standby.recovery.failback_steps import OldDisk
from standby.recovery.live_view import refuse_reverse
from standby.recovery.networks import network_named
from standby.recovery.run_directory import FAILOVERS
from standby.recovery.split_brain import CONFIRM
from standby.replication.policy import FREQUENCIES


def reverse(
    run: RunDirectory,
    frequency: Annotated[
        int | None,
        typer.Option(
            "--frequency",
            metavar="SECONDS",
            help=f"Between two points: {', '.join(map(str, FREQUENCIES))} [default: 30].",
        ),
    ] = None,
    key_file: KeyFileOption = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Protect a committed machine from here into the same replica: by the agent, else until Ctrl-C.

    Where `standby agent run` is at work, it takes the machine on. What differs from the newest point is found by
    hashes; recovery points stay.
    """
    found = live_view.look(run, QemuHost())
    refuse_reverse(found)
    machine = live_view.machine(run, QemuHost())
    protect(
        machine=found.name,
        qmp=machine.qmp,
        agent=machine.agent,
        store=found.store,
        replica=found.replica,
        frequency=frequency,
        take_over=True,
        key_file=key_file,
        state=state,
        json=json,
    )


def failback(
    store: StoreAddress,
    replica: ReplicaName,
    disk: Annotated[
        list[str],
        typer.Option(
            "--disk",
            metavar="ID=FORMAT:PATH",
            help=f"A disk as it was left here; FORMAT: {', '.join(Format)}. Repeatable: every disk.",
        ),
    ],
    network: NetworkChoice = "isolated",
    state: State = None,
    no_agent: NoAgent = False,
    boot_limit: BootLimit = 300.0,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Bring a machine's old disks to its newest point, fetching only what differs, into overlays on them.

    The machine runs on where it is, until `failover complete`. The old disks are not written to.
    """
    kind, bridge = network_named(network)
    request = failing_back.Request(
        store,
        replica,
        [_old(one) for one in disk],
        None if no_agent else boot_limit,
        kind,
        bridge,
        key_of(key_file, passphrase),
    )
    root = made(root_of(state, FAILOVERS))
    show_live(failing_back.start(request, root, QemuHost(), told=None if json else tell), json)


def complete(
    run: RunDirectory,
    source_qmp: SourceQmp = None,
    source_down: Annotated[
        bool, typer.Option(CONFIRM, help="Where it ran until now, the machine was made sure to be off.")
    ] = False,
    json: Json = False,
) -> None:
    """Complete a failback: fetch what changed since, and start the machine here.

    Where it runs now, `standby failover planned` comes first: then nothing is lost and nothing is asked.
    """
    completed = failing_back.complete(
        run, QemuHost(), source_qmp=source_qmp, confirmed=source_down, told=None if json else tell
    )
    show_live(completed, json)


def _old(text: str) -> OldDisk:
    """What --disk means. Raises InvalidRequest."""
    identity, _, rest = text.partition("=")
    format, _, path = rest.partition(":")
    if not (identity and path) or format not in [one.value for one in Format]:
        raise InvalidRequest(
            f"{text!r} does not name a disk, a format and an image",
            subject="--disk",
            hint=f"ID=FORMAT:PATH, as disk0=qcow2:/srv/vm/disk0.qcow2; formats are {', '.join(Format)}",
        )
    return OldDisk(id=identity, path=str(Path(path).absolute()), format=format)
