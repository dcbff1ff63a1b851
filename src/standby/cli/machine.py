"""What the options of `standby vm` mean: the machine's process, and its findings shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from standby.cli.output import say
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.records import Finding

MachineName = Annotated[str, typer.Argument(metavar="MACHINE", help="The machine's name.")]
QmpSocket = Annotated[
    Path, typer.Option("--qmp", metavar="SOCKET", help="A QMP socket of the machine, for standby alone.")
]
AgentSocket = Annotated[
    Path | None, typer.Option("--agent", metavar="SOCKET", help="The socket of its guest agent.")
]
NbdSocket = Annotated[
    Path | None,
    typer.Option("--nbd", metavar="SOCKET", help="The socket of its NBD server, if the process runs one."),
]


def hypervisor_of(machine: str, qmp: Path, agent: Path | None, nbd: Path | None) -> QemuHypervisor:
    """The one machine that the options name."""
    return QemuHypervisor({machine: QemuMachine(qmp=qmp, agent=agent, nbd=nbd)})


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Each with what to do about it; those that stand against protection first."""
    for finding in sorted(findings, key=lambda one: not one.blocks):
        word, style = ("Blocks", "red") if finding.blocks else ("Remark", "yellow")
        say(console, f"{word}  {finding.subject}: {finding.problem}", style=style, indent=8)
        if finding.fix:
            say(console, f"        {finding.fix}", indent=8)
