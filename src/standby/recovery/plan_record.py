"""The record of a plan's run: its order, a row for each step, and what people change in it between two lives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from standby.clock import Clock, SystemClock
from standby.errors import Damaged, InvalidRequest, NeedsPerson
from standby.recovery import run_directory
from standby.recovery.plan_document import Kind, Plan
from standby.recovery.plan_steps import Part, Phase, PlanStep, Stand, decide, decide_back, steps_of
from standby.recovery.run_directory import RecoveryBusy

OUTPUT: Final = "output"
"""What programs said, a file a step, within the run directory."""

CONTINUE: Final = "standby plan continue {run}"
"""A command that messages name."""


class NotWaiting(InvalidRequest):
    """The run, or the step that was named, does not stand as what was asked of it needs."""


class PlanStopped(NeedsPerson):
    """A failed step of a plan's run stands in the way of those behind it."""

    @classmethod
    def of(cls, found: PlanRun) -> PlanStopped:
        failed = found.failed
        return cls(
            "; ".join(f"{row.step}: {row.error}" for row in failed) or "nothing is left that could be done",
            subject=f"plan {found.order.plan.name}",
            tried="the groups behind it were not begun",
            hint=f"{CONTINUE.format(run=found.run)} tries again; with --skip STEP it goes on without",
        )


class PlanOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is told, fixed before its first step. tags: of the members' failovers, by name. confirmed: an
    operator said that all sources are down."""

    tag: str
    plan: Plan
    kind: Kind
    part: Part
    confirmed: bool
    asked: str
    tags: dict[str, str]

    @property
    def steps(self) -> tuple[PlanStep, ...]:
        return steps_of(self.plan, self.kind, self.part)


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it stands. began, ended: RFC 3339. tries: how often it was begun. run: the member's failover."""

    step: str
    stand: Stand = Stand.PENDING
    began: str = ""
    ended: str = ""
    tries: int = 0
    text: str = ""
    error: str = ""
    run: str = ""
    facts: dict[str, float] = {}


class PlanRows(msgspec.Struct, frozen=True, kw_only=True):
    """undoing: the run is being taken back, for good."""

    rows: tuple[PlanRow, ...]
    undoing: bool = False

    def row(self, step: str) -> PlanRow:
        return next(row for row in self.rows if row.step == step)

    def stands(self) -> dict[str, Stand]:
        return {row.step: row.stand for row in self.rows}


class PlanRun(NamedTuple):
    """A run as it stands. busy: a process works on it now."""

    run: Path
    order: PlanOrder
    rows: PlanRows
    phase: Phase
    busy: bool

    @property
    def failed(self) -> tuple[PlanRow, ...]:
        return tuple(row for row in self.rows.rows if row.error and row.stand is not Stand.DONE)

    @property
    def waiting(self) -> tuple[PlanRow, ...]:
        return tuple(row for row in self.rows.rows if row.stand is Stand.WAITING)


def answer(run: Path, *, clock: Clock | None = None) -> list[str]:
    """A person says that what the run waits for is done. Which steps those are; `go_on` follows."""
    return _change(
        run,
        lambda _step, row: row.stand is Stand.WAITING,
        lambda row, now: msgspec.structs.replace(row, stand=Stand.DONE, ended=now, text="said to be done"),
        clock,
    )


def retry(run: Path, steps: frozenset[str] = frozenset(), *, clock: Clock | None = None) -> list[str]:
    """Let failed steps be tried again: those named, by step or by member; all if none is. Which; `go_on` follows.

    Raises NotWaiting if one that is named has not failed.
    """
    return _change(
        run,
        lambda step, row: row.stand is Stand.FAILED and (not steps or bool(steps & {step.id, step.member})),
        lambda row, _now: msgspec.structs.replace(row, stand=Stand.PENDING, error=""),
        clock,
        steps,
    )


def pass_over(run: Path, steps: frozenset[str], *, clock: Clock | None = None) -> list[str]:
    """Go on without failed steps. Which; `go_on` follows. Raises NotWaiting if one of them has not failed."""
    return _change(
        run,
        lambda step, row: row.stand is Stand.FAILED and bool(steps & {step.id, step.member}),
        lambda row, now: msgspec.structs.replace(row, stand=Stand.PASSED, ended=now),
        clock,
        steps,
    )


def forget(run: Path) -> None:
    """Remove the record of a run that is over. Machines that it started in earnest are failovers, and stay.

    Raises NotWaiting for one that is not done and not taken back.
    """
    run = run.resolve()
    if run_directory.finish_removal(run):
        return
    with run_directory.run_lock(run):
        found = look(run)
        machines = found.phase is Phase.DONE and found.order.kind is not Kind.TEST
        if not machines and found.phase is not Phase.CLEAN:
            raise refused(run, f"it is {found.phase.value}, its record is still needed")
        run_directory.remove(run)


def look(run: Path) -> PlanRun:
    """A run as it stands now. Raises NoRecovery."""
    run = run.resolve()
    order = read_order(run)
    rows = read_rows(run)
    parallel = order.plan.parallel
    if rows.undoing:
        phase = decide_back(order.steps, rows.stands(), (), parallel).phase
    else:
        phase = decide(order.steps, rows.stands(), (), parallel).phase
    busy = False
    try:
        with run_directory.run_lock(run):
            pass
    except RecoveryBusy:
        busy = True
    return PlanRun(run, order, rows, phase, busy)


def list_runs(root: Path) -> list[PlanRun]:
    """The runs below `root`, oldest first."""
    found = []
    for run in run_directory.recoveries(root.resolve()):
        with contextlib.suppress(run_directory.NoRecovery):
            found.append(look(run))
    return found


def output_of(found: PlanRun, step: str) -> Path | None:
    """What a step's program said, if it is one that ran."""
    number = [row.step for row in found.rows.rows].index(step)
    path = found.run / OUTPUT / f"{number:03}.log"
    return path if path.exists() else None


def _change(
    run: Path,
    which: Callable[[PlanStep, PlanRow], bool],
    how: Callable[[PlanRow, str], PlanRow],
    clock: Clock | None,
    named: frozenset[str] = frozenset(),
) -> list[str]:
    run = run.resolve()
    now = (clock or SystemClock()).now().isoformat()
    with run_directory.run_lock(run):
        order, rows = read_order(run), read_rows(run)
        if rows.undoing:
            raise refused(run, "it is being taken back")
        steps: Mapping[str, PlanStep] = {step.id: step for step in order.steps}
        found = [row.step for row in rows.rows if which(steps[row.step], row)]
        hit = {name for step in found for name in (step, steps[step].member)}
        if missed := sorted(named - hit):
            raise refused(run, f"{missed[0]} has not failed")
        changed = tuple(how(row, now) if row.step in found else row for row in rows.rows)
        run_directory.put(run / run_directory.ROWS, msgspec.structs.replace(rows, rows=changed))
    return found


def read_order(run: Path) -> PlanOrder:
    """Raises NoRecovery, also for the run directory of a failover."""
    try:
        return run_directory.read_order(run, PlanOrder)
    except (Damaged, run_directory.NoRecovery):
        raise _no_run(run) from None


def read_rows(run: Path) -> PlanRows:
    rows = run_directory.find(run / run_directory.ROWS, PlanRows)
    if rows is None:
        raise _no_run(run)
    return rows


def _no_run(run: Path) -> run_directory.NoRecovery:
    return run_directory.NoRecovery(
        "this is no run of a plan; nothing was done to it",
        subject=str(run),
        hint="`standby plan list` names those of this host",
    )


def refused(run: Path, cause: str) -> NotWaiting:
    return NotWaiting(cause, subject=str(run), hint=f"`standby plan show {run}` tells how it stands")
