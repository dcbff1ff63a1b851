"""`standby vm pause`, `resync` and the like: what an operator asks of a protected machine's agent."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.asking import carry_out
from standby.cli.machine import AgentSocket, LibvirtUri, MachineName, NbdSocket, connection_of, show_findings
from standby.cli.output import Json, print_json, say, stdout
from standby.cli.policy_options import (
    ApplicationConsistent,
    Backlog,
    Frequency,
    Other,
    Reserve,
    ResyncHours,
    ResyncStart,
    UploadThreads,
    Work,
    WorkHours,
    policy_of,
    rate_text,
)
from standby.cli.quantities import counted, size
from standby.cli.state import State, folder_of
from standby.cli.vault_login import Local, asked
from standby.cli.vm_show import vm_of
from standby.cli.vm_where import Confirm, Wait, only_here, through_vault
from standby.errors import InvalidRequest
from standby.link import requests
from standby.replica.keys import KeyFile
from standby.replication.books import Books, find
from standby.replication.policy import Policy
from standby.replication.relationship import Relationship
from standby.replication.window import Start


def pause(
    machine: MachineName, wait: Wait = False, local: Local = False, state: State = None, json: Json = False
) -> None:
    """Pause replication: no more points; changes go on being tracked."""
    if asked(state, local):
        through_vault().change(machine, "pause", {}, wait=wait, json=json)
        return
    carry_out(folder_of(state), requests.Pause(machine=machine))
    _tell(machine, state, json, f"{machine} is paused. `standby vm resume {machine}` ends it.")


def resume(
    machine: MachineName, wait: Wait = False, local: Local = False, state: State = None, json: Json = False
) -> None:
    """Resume replication that was paused."""
    if asked(state, local):
        through_vault().change(machine, "resume", {}, wait=wait, json=json)
        return
    carry_out(folder_of(state), requests.Resume(machine=machine))
    _tell(machine, state, json, f"{machine} is resumed.")


def retry(
    machine: MachineName, wait: Wait = False, local: Local = False, state: State = None, json: Json = False
) -> None:
    """Try again now what waits for its time, or for a person who has acted."""
    if asked(state, local):
        through_vault().change(machine, "retry", {}, wait=wait, json=json)
        return
    carry_out(folder_of(state), requests.Retry(machine=machine))
    _tell(machine, state, json, f"{machine}: everything is tried again now.")


def point(
    machine: MachineName,
    together: Annotated[
        list[str] | None,
        typer.Option(
            "--with", metavar="MACHINE", help="And of this machine, at the same instant. Repeatable."
        ),
    ] = None,
    wait: Wait = False,
    local: Local = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Make a point now, application-consistent if the guest agent answers. Where an agent runs.

    With other machines of this host, all are frozen for one instant; where that fails, status 4 tells why.
    """
    if asked(state, local):
        only_here({"--with": together or None})
        through_vault().change(machine, "point", {}, wait=wait, json=json)
        return
    carry_out(folder_of(state), requests.MakePoint(machine=machine, together=tuple(together or ())))
    text = f"{machine}: a point is made now."
    if together:
        text = f"{machine}, {', '.join(together)}: points of one instant are made, and on their way."
    _tell(machine, state, json, text)


def resync(
    machine: MachineName,
    disk: Annotated[
        list[str] | None,
        typer.Option(
            "--disk", metavar="DISK", help="This disk only. Repeatable [default: those that wait, or all]."
        ),
    ] = None,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Hold it until it is asked for again; it goes on from there.")
    ] = False,
    wait: Wait = False,
    local: Local = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Compare disks with the replica now, by hashes: only what differs is sent, and points stay."""
    if asked(state, local):
        kind, params = ("cancel-resync", {}) if cancel else ("resync", {"disks": disk or []})
        through_vault().change(machine, kind, params, wait=wait, json=json)
        return
    if cancel:
        carry_out(folder_of(state), requests.CancelResync(machine=machine))
        text = f"{machine}: the resynchronization is held. `standby vm resync {machine}` goes on with it."
    else:
        carry_out(folder_of(state), requests.Resync(machine=machine, disks=tuple(disk or ())))
        text = f"{machine}: its disks are compared with the replica now."
    _tell(machine, state, json, text)


def disks(
    machine: MachineName,
    exclude: Annotated[
        str | None,
        typer.Option("--exclude", metavar="DISK", help="Protect this disk no longer; points keep it."),
    ] = None,
    include: Annotated[
        str | None, typer.Option("--include", metavar="DISK", help="Protect a disk that was left out.")
    ] = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Leave a disk of a protected machine out, or take one in again."""
    folder = folder_of(state)
    if exclude:
        carry_out(folder, requests.LeaveOut(machine=machine, disk=exclude))
    if include:
        carry_out(folder, requests.TakeIn(machine=machine, disk=include))
    relationship = _read(folder, machine)
    protected = ", ".join(disk.id for disk in relationship.disks)
    _tell(
        machine,
        state,
        json,
        f"{machine}: protected are {protected}; left out {', '.join(relationship.excluded) or 'none'}.",
    )


def policy(
    machine: MachineName,
    frequency: Frequency = None,
    application_consistent: ApplicationConsistent = None,
    backlog: Backlog = None,
    reserve: Reserve = None,
    resync: ResyncStart = None,
    resync_hours: ResyncHours = None,
    work: Work = None,
    other: Other = None,
    work_hours: WorkHours = None,
    upload_threads: UploadThreads = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Show or change a protected machine's policy. What changes takes effect at once."""
    folder = folder_of(state)
    current = _read(folder, machine).policy
    wanted = policy_of(
        current,
        frequency=frequency,
        application_consistent=application_consistent,
        backlog=backlog,
        reserve=reserve,
        resync=resync,
        resync_hours=resync_hours,
        work=work,
        other=other,
        work_hours=work_hours,
        upload_threads=upload_threads,
    )
    done = None
    if wanted != current:
        done = carry_out(folder, requests.SetPolicy(machine=machine, policy=wanted))
    if json:
        print_json(wanted)
        return
    if done:
        show_findings(stdout(), done.findings)
    for line in policy_text(wanted):
        say(stdout(), line)


def policy_text(policy: Policy) -> list[str]:
    hours = policy.application_consistent_hours
    start = policy.resync.start
    window = f", {policy.resync.hours}" if start is Start.SCHEDULED else ""
    return [
        f"A point every {policy.frequency} s"
        + (f"; application-consistent every {counted(hours, 'hour')}." if hours else "."),
        f"Up to {policy.backlog_percent} % of a disk may wait for the store; {size(policy.reserve)} stay free.",
        f"Resynchronization: {start.value}{window}.",
        f"Bandwidth: {rate_text(policy.bandwidth)}; {counted(policy.upload_threads, 'upload thread')}.",
    ]


def connect(
    machine: MachineName,
    qmp: Annotated[
        Path | None, typer.Option("--qmp", metavar="SOCKET", help="Its QMP socket from now on.")
    ] = None,
    agent: AgentSocket = None,
    nbd: NbdSocket = None,
    libvirt: LibvirtUri = None,
    state: State = None,
    json: Json = False,
) -> None:
    """Tell how a protected machine is reached from now on."""
    connection = connection_of(machine, None, qmp, agent, nbd, libvirt)
    carry_out(folder_of(state), requests.SetConnection(machine=machine, connection=connection))
    _tell(machine, state, json, f"{machine} is reached at {connection.libvirt or connection.qmp}.")


def key(
    machine: MachineName,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its key file from now on.")],
    state: State = None,
    json: Json = False,
) -> None:
    """Tell where the key of a protected machine's replica lies from now on; it must open the replica."""
    found = KeyFile(file)
    carry_out(folder_of(state), requests.SetKeyFile(machine=machine, key_file=str(found.path)))
    _tell(machine, state, json, f"{machine} is replicated with key {found.id} of {found.path}.")


def unprotect(
    machine: MachineName,
    qmp: Annotated[
        Path | None,
        typer.Option(
            "--qmp", metavar="SOCKET", help="The machine's QMP socket, if it is another one by now."
        ),
    ] = None,
    agent: AgentSocket = None,
    nbd: NbdSocket = None,
    libvirt: LibvirtUri = None,
    gone: Annotated[
        bool, typer.Option("--machine-gone", help="The machine's process is gone, and its tracking with it.")
    ] = False,
    confirm: Confirm = "",
    wait: Wait = False,
    local: Local = False,
    state: State = None,
    json: Json = False,
) -> None:
    """End protection. The replica stays in the store, with all its points."""
    if asked(state, local):
        only_here({"--qmp": qmp, "--agent": agent, "--nbd": nbd})
        through_vault().unprotect(machine, gone=gone, confirm=confirm, wait=wait, json=json)
        return
    folder = folder_of(state)
    relationship = _read(folder, machine)
    if (qmp or libvirt) and gone:
        raise InvalidRequest(
            "it is told both where the machine runs and that it is gone",
            subject=machine,
            hint="give --qmp, --libvirt or --machine-gone",
        )
    if qmp or libvirt:
        connection = connection_of(machine, None, qmp, agent, nbd, libvirt)
        carry_out(folder, requests.SetConnection(machine=machine, connection=connection))
    done = carry_out(folder, requests.Unprotect(machine=machine, gone=gone))
    if json:
        print_json(
            results.Unprotected(
                machine=machine, store=relationship.store, replica=relationship.replica, dropped=done.dropped
            )
        )
        return
    lost = ""
    if done.dropped:
        lost = f" {counted(done.dropped, 'point')} had not reached the store and are dropped."
    say(
        stdout(),
        f"{machine} is no longer protected.{lost} Its replica {relationship.replica} stays in "
        f"{relationship.store}: `standby replica points {relationship.store} {relationship.replica}`.",
    )


def _read(folder: Path, machine: str) -> Relationship:
    with closing(Books.reading(folder)) as books:
        return find(books, machine)


def _tell(machine: str, state: Path | None, json: bool, text: str) -> None:
    if not json:
        say(stdout(), text)
        return
    with closing(Books.reading(folder_of(state))) as books:
        print_json(vm_of(books, find(books, machine)))
