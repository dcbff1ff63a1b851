"""What the options of `standby vm` mean: the machine's process, and its findings shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from standby.cli.output import say
from standby.errors import InvalidRequest
from standby.records import Finding
from standby.replication.relationship import Connection

MachineName = Annotated[str, typer.Argument(metavar="MACHINE", help="The machine's name.")]
QmpSocket = Annotated[
    Path | None,
    typer.Option("--qmp", metavar="SOCKET", help="A QMP socket of the machine, for standby alone."),
]
LibvirtUri = Annotated[
    str | None,
    typer.Option(
        "--libvirt",
        metavar="URI",
        help="The libvirt that runs it (qemu:///system), instead of sockets; MACHINE is its domain there.",
    ),
]
AgentSocket = Annotated[
    Path | None, typer.Option("--agent", metavar="SOCKET", help="The socket of its guest agent.")
]
NbdSocket = Annotated[
    Path | None,
    typer.Option("--nbd", metavar="SOCKET", help="The socket of its NBD server, if the process runs one."),
]


def connection_of(
    machine: str,
    known: Connection | None,
    qmp: Path | None,
    agent: Path | None,
    nbd: Path | None,
    libvirt: str | None,
) -> Connection:
    """How the options say that the machine is reached, and where they say nothing, what is known.

    Raises InvalidRequest.
    """
    if libvirt and (qmp or agent or nbd):
        raise InvalidRequest(
            "it is reached either through libvirt or by sockets of its own",
            subject=machine,
            hint="give --libvirt alone: libvirt has the guest agent and its own control socket",
        )
    if libvirt:
        return Connection(libvirt=libvirt)
    if qmp is None and known is None:
        raise InvalidRequest(
            "it is not known how the machine is reached",
            subject=machine,
            hint="give a QMP socket of it with --qmp, or the libvirt that runs it with --libvirt",
        )
    if qmp is None and known and known.libvirt:
        return known
    before = known or Connection()
    return Connection(
        qmp=str(qmp.absolute()) if qmp else before.qmp,
        agent=str(agent.absolute()) if agent else before.agent,
        nbd=str(nbd.absolute()) if nbd else before.nbd,
    )


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Each with what to do about it; those that stand against protection first."""
    for finding in sorted(findings, key=lambda one: not one.blocks):
        word, style = ("Blocks", "red") if finding.blocks else ("Remark", "yellow")
        say(console, f"{word}  {finding.subject}: {finding.problem}", style=style, indent=8)
        if finding.fix:
            say(console, f"        {finding.fix}", indent=8)
