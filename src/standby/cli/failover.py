"""`standby failover`: machines started from their replicas. Needs a store and this host, no agent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from standby.cli import results
from standby.cli.help import Group
from standby.cli.key_options import KeyFileOption, PassphraseOption, key_of
from standby.cli.machine import show_findings
from standby.cli.output import Column, Field, Json, fields, print_json, say, stderr, stdout, table
from standby.cli.quantities import duration
from standby.cli.reading import PointChoice, ReplicaName, StoreAddress
from standby.cli.state import State, folder_of, made
from standby.hypervisor.launch import QemuHost
from standby.recovery import failover
from standby.recovery.failover import FailoverTest, Request
from standby.recovery.steps import Row
from standby.recovery.steps import State as StepState

app = typer.Typer(cls=Group)

RunDirectory = Annotated[
    Path, typer.Argument(metavar="RUN", help="The test's directory, as `failover list` names it.")
]


@app.command(name="test")
def start_test(
    store: StoreAddress,
    replica: ReplicaName,
    point: PointChoice = "newest",
    state: State = None,
    no_agent: Annotated[
        bool, typer.Option("--no-agent", help="The guest has no agent: do not wait for its answer.")
    ] = False,
    boot_limit: Annotated[
        float, typer.Option("--boot-limit", help="Seconds to wait for the guest agent.")
    ] = 300.0,
    key_file: KeyFileOption = None,
    passphrase: PassphraseOption = False,
    json: Json = False,
) -> None:
    """Boot a point straight from the store, isolated from every network, beside whatever runs."""
    root = made(_root(state))
    request = Request(store, replica, point, None if no_agent else boot_limit, key_of(key_file, passphrase))
    started = failover.start(request, root, QemuHost(), told=None if json else _tell)
    _show(started, json)


@app.command(name="list")
def list_tests(state: State = None, json: Json = False) -> None:
    """List the test failovers on this host."""
    root = _root(state)
    found = failover.list_tests(root, QemuHost()) if root.is_dir() else []
    if json:
        print_json([_result(one) for one in found])
    elif not found:
        say(stdout(), "No test failover is here.")
    else:
        columns = (Column("Machine"), Column("Point", right=True), Column("Phase"), Column("Run"))
        table(stdout(), columns, [(one.name, str(one.seq), one.phase.value, str(one.run)) for one in found])


@app.command()
def show(run: RunDirectory, json: Json = False) -> None:
    """Tell how a test failover stands, and what its machine suffers from."""
    _show(failover.look(run, QemuHost()), json)


@app.command()
def mend(run: RunDirectory, json: Json = False) -> None:
    """Start again what serves the disks and has died; the machine that waits for them goes on."""
    mended = failover.mend(run)
    if json:
        print_json(results.Mended(run=str(run), disks=tuple(mended)))
    else:
        say(stdout(), f"Served again: {', '.join(mended)}." if mended else "Nothing was broken.")


@app.command()
def cleanup(run: RunDirectory, json: Json = False) -> None:
    """End a test failover: its machine, its servers, its disks, its hold on the point."""
    failover.clean_up(run, QemuHost(), told=None if json else _tell)
    if json:
        print_json(results.CleanedUp(run=str(run)))
    else:
        say(stdout(), "Cleaned up: nothing of the test is left.")


def _root(state: Path | None) -> Path:
    return folder_of(state) / "tests"


def _tell(row: Row) -> None:
    if row.error:
        say(stderr(), f"{row.task}: {row.step} failed", style="red")
    elif row.state in (StepState.DONE, StepState.UNDONE):
        say(stderr(), f"{row.task}: {row.step} done")


def _show(shown: FailoverTest, json: bool) -> None:
    if json:
        print_json(_result(shown))
        return
    times = shown.times
    console = stdout()
    fields(
        console,
        [
            Field("Machine", shown.name),
            Field("Point", f"{shown.seq} of {shown.replica} in {shown.store}"),
            Field("Phase", shown.phase.value),
            Field(
                "First instruction",
                "" if times.first_instruction is None else duration(times.first_instruction),
            ),
            Field("Guest agent", "" if times.agent is None else f"answered after {duration(times.agent)}"),
            Field("Hold", "" if shown.held else "none: a merge may take the point away meanwhile"),
            Field("Run", str(shown.run)),
            Field("To end it", f"standby failover cleanup {shown.run}"),
        ],
    )
    show_findings(console, shown.problems)


def _result(shown: FailoverTest) -> results.FailoverTest:
    return results.FailoverTest(
        run=str(shown.run),
        machine=shown.name,
        store=shown.store,
        replica=shown.replica,
        point=shown.seq,
        phase=shown.phase.value,
        held=shown.held,
        first_instruction=shown.times.first_instruction,
        agent=shown.times.agent,
        problems=shown.problems,
    )
