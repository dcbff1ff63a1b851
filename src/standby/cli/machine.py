"""What the options of `standby vm` mean: the machine's process, and its findings shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from standby.block.chains import ChainFault, check_chain
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

_FIXES: Final = {
    ChainFault.MISSING: "put the parent back, or merge the chain into one image",
    ChainFault.MISMATCHED: "put the right parent back",
    ChainFault.MODIFIED: "restore the parent as it was: what is below the child's changes is no longer right",
    ChainFault.UNREADABLE: "repair the image or its permissions",
    ChainFault.UNSUPPORTED: "convert the image to one that stands alone",
}


def hypervisor_of(machine: str, qmp: Path, agent: Path | None, nbd: Path | None) -> QemuHypervisor:
    """The one machine that the options name."""
    return QemuHypervisor(
        {machine: QemuMachine(qmp=qmp, agent=agent, nbd=nbd)}, chain_problems=_chain_problems
    )


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Each with what to do about it; those that stand against protection first."""
    for finding in sorted(findings, key=lambda one: not one.blocks):
        word, style = ("Blocks", "red") if finding.blocks else ("Remark", "yellow")
        say(console, f"{word}  {finding.subject}: {finding.problem}", style=style, indent=8)
        if finding.fix:
            say(console, f"        {finding.fix}", indent=8)


def _chain_problems(path: Path, driver: str) -> list[tuple[str, str]]:
    return [(f"{problem.file}: {problem.cause}", _FIXES[problem.fault]) for problem in check_chain(path, driver)]
