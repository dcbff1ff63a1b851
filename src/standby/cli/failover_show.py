"""What the failover commands have in common: run directories, and how a failover is shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.machine import show_findings
from standby.cli.output import Field, fields, print_json, say, stderr, stdout
from standby.cli.quantities import duration
from standby.cli.state import folder_of
from standby.errors import InvalidRequest
from standby.hypervisor.host import MachineState
from standby.recovery import run_directory
from standby.recovery.live_view import Failover, Phase
from standby.recovery.machine_steps import RunOrder
from standby.recovery.steps import Row, State

RunDirectory = Annotated[
    Path, typer.Argument(metavar="RUN", help="Its directory, as `failover list` names it.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def root_of(state: Path | None, kind: str) -> Path:
    return folder_of(state) / kind


def kind_of(run: Path) -> str:
    """Which recovery the run directory is of. Raises NoRecovery."""
    return run_directory.read_order(run.resolve(), RunOrder).kind


def tell(row: Row) -> None:
    if row.error:
        say(stderr(), f"{row.task}: {row.step} failed", style="red")
    elif row.state in (State.DONE, State.UNDONE):
        say(stderr(), f"{row.task}: {row.step} done")


def confirmed(question: str, warning: str, subject: str, *, yes: bool, may_ask: bool) -> bool:
    """Whether somebody agrees. Raises InvalidRequest where there is nobody to ask."""
    if yes:
        return True
    if not (may_ask and sys.stdin.isatty()):
        raise InvalidRequest(
            f"{warning} There is no terminal to ask whether that is meant",
            subject=subject,
            tried="nothing was changed",
            hint="repeat the command with --yes",
        )
    say(stderr(), warning)
    agreed = typer.confirm(question, err=True)
    if not agreed:
        say(stderr(), "Nothing was changed.")
    return agreed


def show_live(shown: Failover, json: bool) -> None:
    if json:
        print_json(live_result(shown))
        return
    console = stdout()
    first = shown.times.first_instruction
    fields(
        console,
        [
            Field("Machine", shown.name),
            Field("Point", f"{shown.seq or 'none yet'} of {shown.replica} in {shown.store}"),
            Field("Phase", shown.phase.value),
            Field("Runs", _state(shown)),
            Field("Source", shown.known),
            Field("Fence", f"epoch {shown.epoch}" if shown.epoch else ""),
            Field("First instruction", "" if first is None else duration(first)),
            Field(
                "Guest agent",
                "" if shown.times.agent is None else f"answered after {duration(shown.times.agent)}",
            ),
            Field("Hydrated", f"{len(shown.whole)} of {len(shown.disks)} disks"),
            Field("Run", str(shown.run)),
            Field("Next", _next(shown)),
        ],
    )
    show_findings(console, shown.problems)


def live_result(shown: Failover) -> results.Failover:
    return results.Failover(
        run=str(shown.run),
        machine=shown.name,
        store=shown.store,
        replica=shown.replica,
        point=shown.seq,
        phase=shown.phase.value,
        state=_state(shown),
        source=shown.known,
        epoch=shown.epoch,
        disks=shown.disks,
        whole=shown.whole,
        first_instruction=shown.times.first_instruction,
        agent=shown.times.agent,
        problems=shown.problems,
    )


def _state(shown: Failover) -> str:
    if shown.machine is None:
        return "not started"
    return "off" if shown.machine is MachineState.GONE else shown.machine.value


def _next(shown: Failover) -> str:
    run = shown.run
    match shown.phase:
        case Phase.FAILED_OVER:
            return f"standby failover commit {run}, or change-point, or cancel"
        case Phase.COMMITTED if set(shown.whole) != set(shown.disks):
            return f"standby failover hydrate {run}"
        case Phase.COMMITTED:
            return f"standby failover reverse {run}"
        case Phase.WAITING:
            return f"`standby failover planned` where it runs, then standby failover complete {run}"
        case Phase.CANCELLING:
            return f"standby failover cancel {run}"
        case _:
            return f"standby failover resume {run}"
