"""How a run of a plan is shown."""

from __future__ import annotations

from datetime import datetime

from standby.cli.output import Column, Field, fields, print_json, say, stderr, stdout, table
from standby.cli.plan_results import PlanRunShown, PlanStepShown
from standby.cli.quantities import counted, duration
from standby.recovery.plan_document import Kind, Manual
from standby.recovery.plan_record import CONTINUE, PlanRow, PlanRun, output_of
from standby.recovery.plan_steps import Does, Phase, PlanStep, Stand, action_of

_STYLES = {Stand.DONE: "green", Stand.FAILED: "red", Stand.WAITING: "yellow"}


def tell(step: PlanStep, row: PlanRow) -> None:
    """A step that began or ended, as it happens; on stderr."""
    if row.error:
        say(stderr(), f"{step.id}: failed", style="red")
    elif row.stand not in (Stand.STARTED, Stand.UNDOING):
        text = f", {row.text}" if row.text else ""
        say(stderr(), f"{step.id}: {row.stand.value}{text}", style=_STYLES.get(row.stand, ""))


def show(found: PlanRun, json: bool) -> None:
    if json:
        print_json(result(found))
        return
    console = stdout()
    order = found.order
    part = f", the {order.part.value} part" if order.part.value != "both" else ""
    fields(
        console,
        [
            Field("Plan", f"{order.plan.name}, {counted(len(order.plan.members), 'member')}"),
            Field("Kind", f"{order.kind.value}{part}"),
            Field("Phase", phase_text(found)),
            Field("Run", str(found.run)),
            Field("Next", _next(found)),
        ],
    )
    columns = (Column("Step"), Column("State"), Column("Took", 1, right=True), Column("Told", 2))
    table(
        console,
        columns,
        [(row.step, row.stand.value, _took(row), row.text) for row in found.rows.rows],
    )
    for row in found.failed:
        say(console, f"{row.step}: {row.error}", style="red", indent=2)
    for row in found.waiting:
        say(console, f"{row.step}: {_text(found, row)}", style="yellow", indent=2)


def result(found: PlanRun) -> PlanRunShown:
    steps = []
    for step, row in zip(found.order.steps, found.rows.rows, strict=True):
        output = output_of(found, step.id)
        steps.append(
            PlanStepShown(
                step=step.id,
                does=step.does.value,
                group=step.group,
                member=step.member,
                stand=row.stand.value,
                began=row.began,
                ended=row.ended,
                tries=row.tries,
                text=_text(found, row),
                error=row.error,
                run=row.run,
                output=str(output) if output else "",
                facts=row.facts,
            )
        )
    return PlanRunShown(
        run=str(found.run),
        plan=found.order.plan.name,
        kind=found.order.kind.value,
        part=found.order.part.value,
        asked=found.order.asked,
        phase=found.phase.value,
        busy=found.busy,
        steps=tuple(steps),
    )


def phase_text(found: PlanRun) -> str:
    if found.phase in (Phase.RUNNING, Phase.CANCELLING) and not found.busy:
        return f"{found.phase.value}, interrupted"
    if found.phase is Phase.DONE and found.failed:
        return f"done, {counted(len(found.failed), 'step')} failed"
    return found.phase.value


def _next(found: PlanRun) -> str:
    run, test = found.run, found.order.kind is Kind.TEST
    back = f"standby plan {'cleanup' if test else 'cancel'} {run}"
    match found.phase:
        case _ if found.busy:
            return ""
        case Phase.RUNNING | Phase.WAITING | Phase.STOPPED:
            return f"{CONTINUE.format(run=run)}, or {back}"
        case Phase.DONE if test:
            return back
        case Phase.DONE if any(row.run for row in found.rows.rows):
            return "standby failover commit RUN, of each member"
        case Phase.CANCELLING:
            return back
        case _:
            return f"standby plan cleanup {run} removes this record"


def _text(found: PlanRun, row: PlanRow) -> str:
    """What came of a step; of a manual action, what is to be done."""
    step = next(one for one in found.order.steps if one.id == row.step)
    if step.does is Does.MANUAL:
        action = action_of(found.order.plan, step)
        assert isinstance(action, Manual)
        return action.text
    return row.text


def _took(row: PlanRow) -> str:
    if not (row.began and row.ended):
        return ""
    return duration((datetime.fromisoformat(row.ended) - datetime.fromisoformat(row.began)).total_seconds())
