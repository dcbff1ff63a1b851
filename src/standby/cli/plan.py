"""`standby plan`: many machines started in order, with what is waited for and done in between (docs/plans.md)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from standby.cli.failover_show import Yes, confirmed
from standby.cli.help import Group
from standby.cli.machine import show_findings
from standby.cli.output import Column, Json, print_json, say, stderr, stdout, table
from standby.cli.plan_results import PlanChecked, PlanForgotten
from standby.cli.plan_show import phase_text, result, show, tell
from standby.cli.plan_sources import unsealable
from standby.cli.quantities import counted
from standby.cli.sealing import Sealer
from standby.cli.state import State, folder_of, made
from standby.clock import SystemClock
from standby.errors import InvalidRequest
from standby.hypervisor.launch import QemuHost
from standby.link.requests import Seal
from standby.records import Finding
from standby.recovery import plan_findings, plan_record, plan_run
from standby.recovery.plan_document import Kind, Member, Plan, PlanRefused, problems, read
from standby.recovery.plan_host import Here
from standby.recovery.plan_record import PlanRun, PlanStopped
from standby.recovery.plan_steps import Part, Phase
from standby.recovery.run_directory import FAILOVERS, PLANS, TESTS
from standby.recovery.split_brain import CONFIRM

app = typer.Typer(cls=Group)

"""Where runs of plans are, within the state directory."""

PlanFile = Annotated[Path, typer.Argument(metavar="FILE", help="The plan: .toml or .json (docs/plans.md).")]
PlanRunDirectory = Annotated[
    Path, typer.Argument(metavar="RUN", help="Its directory, as `plan list` names it.")
]
KindChoice = Annotated[Kind, typer.Option("--kind", help="What the run does.")]
PartChoice = Annotated[
    Part,
    typer.Option("--part", help="Of a planned run: seal on the source, start on the recovery host, or both."),
]
SourcesDown = Annotated[
    bool, typer.Option(CONFIRM, help="The source machines of all members were made sure to be off.")
]


@app.command()
def check(
    file: PlanFile,
    kind: KindChoice = Kind.TEST,
    part: PartChoice = Part.BOTH,
    source_down: SourcesDown = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Tell everything that stands against running a plan on this host now. Changes nothing."""
    plan = read(file)
    findings = _findings(plan, kind, part, source_down, folder_of(state))
    blocking = [finding for finding in findings if finding.blocks]
    if json:
        print_json(
            PlanChecked(
                plan=plan.name,
                kind=kind.value,
                members=len(plan.members),
                ready=not blocking,
                findings=tuple(findings),
            )
        )
    else:
        show_findings(stdout(), findings)
        if blocking:
            say(stdout(), f"Plan {plan.name} cannot be run yet: {counted(len(blocking), 'problem')}.")
        else:
            members = counted(len(plan.members), "member")
            say(stdout(), f"Plan {plan.name} is ready for a {kind.value} run: {members}.", style="green")
    if blocking:
        raise typer.Exit(PlanRefused.exit_status)


@app.command()
def run(
    file: PlanFile,
    kind: Annotated[Kind, typer.Option("--kind", help="What the run does.")],
    part: PartChoice = Part.BOTH,
    source_down: SourcesDown = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Run a plan: its groups in order, until it is done, a step fails, or a manual action waits.

    `plan continue` goes on, also after this command was interrupted.
    """
    plan, folder = read(file), folder_of(state)
    if kind is not Kind.PLANNED and part is not Part.BOTH:
        raise InvalidRequest(
            f"a {kind.value} run has no parts", subject="--part", hint="leave it out, or `--kind planned`"
        )
    findings = _findings(plan, kind, part, source_down, folder)
    if any(finding.blocks for finding in findings):
        raise PlanRefused(plan.name, tuple(findings))
    if not json:
        show_findings(stderr(), findings)
    begun = plan_run.create(plan, kind, made(folder / PLANS), part=part, confirmed=source_down)
    if not json:
        say(stderr(), f"Run {begun}")
    _go_on(begun, json)


@app.command(name="list")
def list_all(state: State = None, json: Json = False) -> None:
    """List the runs of plans on this host."""
    found = plan_record.list_runs(folder_of(state) / PLANS)
    if json:
        print_json([result(one) for one in found])
    elif not found:
        say(stdout(), "No plan was run here.")
    else:
        columns = (Column("Plan"), Column("Kind", 1), Column("Phase"), Column("Run"))
        rows = [(one.order.plan.name, one.order.kind.value, phase_text(one), str(one.run)) for one in found]
        table(stdout(), columns, rows)


@app.command(name="show")
def show_one(run: PlanRunDirectory, json: Json = False) -> None:
    """Tell how a run of a plan stands, step by step."""
    show(plan_record.look(run), json)


@app.command(name="continue")
def go_on(
    run: PlanRunDirectory,
    retry: Annotated[
        list[str] | None,
        typer.Option(
            "--retry",
            metavar="STEP",
            help="Try this failed step again, or all of this member. Repeatable [default: all that failed].",
        ),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", metavar="STEP", help="Go on without this failed step or member. Repeatable."),
    ] = None,
    json: Json = False,
) -> None:
    """Go on: say that the manual action that waits is done; else try again what failed or was interrupted."""
    found = plan_record.look(run)
    if skip:
        plan_record.pass_over(run, frozenset(skip))
    if retry:
        plan_record.retry(run, frozenset(retry))
    if not (skip or retry):
        if found.phase is Phase.WAITING:
            plan_record.answer(run)
        elif found.phase is Phase.STOPPED:
            plan_record.retry(run)
    _go_on(run, json)


@app.command()
def cancel(run: PlanRunDirectory, yes: Yes = False, json: Json = False) -> None:
    """End all machines of a run in earnest. What their guests wrote is lost; sources stay fenced or sealed."""
    found = plan_record.look(run)
    if found.order.kind is Kind.TEST:
        raise InvalidRequest(
            "it is a test: it is cleaned up",
            subject=str(run),
            hint=f"standby plan cleanup {run}",
        )
    if confirmed(
        "Cancel it?",
        f"What the guests of plan {found.order.plan.name} wrote since their failovers is lost.",
        str(run),
        yes=yes,
        may_ask=not json,
    ):
        _take_back(found, json)


@app.command()
def cleanup(run: PlanRunDirectory, json: Json = False) -> None:
    """End all machines of a test and keep its record; of a run that is over, remove the record.

    Machines that a run in earnest started are failovers of their own, and stay.
    """
    found = plan_record.look(run)
    if found.order.kind is Kind.TEST and found.phase is not Phase.CLEAN:
        _take_back(found, json)
        return
    plan_record.forget(run)
    if json:
        print_json(PlanForgotten(forgotten=str(run)))
    else:
        say(stdout(), "The record of the run is removed.")


def _findings(plan: Plan, kind: Kind, part: Part, source_down: bool, folder: Path) -> list[Finding]:
    root = folder / _failovers(kind)
    found = plan_findings.check(plan, kind, QemuHost(), root, part=part, confirmed=source_down)
    if kind is Kind.PLANNED and part is not Part.START and not problems(plan):
        found += unsealable(plan, folder)
    return found


def _failovers(kind: Kind) -> str:
    return TESTS if kind is Kind.TEST else FAILOVERS


def _folder(found: PlanRun) -> Path:
    """The state directory that a run is in."""
    return found.run.parent.parent


def _go_on(run: Path, json: bool) -> None:
    with ExitStack() as stack:
        found = plan_record.look(run)
        told = plan_run.nobody if json else tell
        ended = plan_run.go_on(run, _here(found, stack, json), told=told)
    show(ended, json)
    if ended.phase is Phase.STOPPED:
        raise PlanStopped.of(ended)


def _take_back(found: PlanRun, json: bool) -> None:
    with ExitStack() as stack:
        told = plan_run.nobody if json else tell
        show(plan_run.take_back(found.run, _here(found, stack, json), told=told), json)


def _here(found: PlanRun, stack: ExitStack, json: bool) -> Here:
    sealer = stack.enter_context(Sealer(_folder(found)))

    def seal(member: Member) -> str:
        request = Seal(machine=member.at_source, force=member.force, shutdown_limit=member.shutdown_limit)
        # Nobody is asked while others are at work: what the plan does not force has failed, and is told so.
        sealer.seal(request, lambda: False, lambda task: None if json else _said(member, task))
        return "shut down and sealed"

    order = found.order
    root = made(_folder(found) / _failovers(order.kind))
    return Here(order.kind, QemuHost(), root, SystemClock(), confirmed=order.confirmed, seal=seal)


def _said(member: Member, task: str) -> None:
    say(stderr(), f"seal:{member.id}: {task}")
