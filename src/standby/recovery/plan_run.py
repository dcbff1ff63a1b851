"""A run of a plan: its record on disk, and the loop that has its steps done.

A run has a directory with its order and a row for each step, like every other recovery. A row says STARTED durably
before its step touches the world; a run that was killed goes on from its rows, and each step finds out for itself
how far it came. Members are worked on side by side, each by a thread, at most as many as the plan says; this loop
alone writes rows. The machines are failovers with run directories of their own, which outlive the record.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec

from standby import failpoints
from standby.clock import Clock, SystemClock
from standby.errors import Bug, StandbyError
from standby.recovery import run_directory
from standby.recovery.plan_document import Kind, Manual, Plan, PlanRefused, Script, problems
from standby.recovery.plan_effects import Effects, Outcome, Situation
from standby.recovery.plan_points import common
from standby.recovery.plan_programs import STEP
from standby.recovery.plan_record import (
    OUTPUT,
    PlanOrder,
    PlanRow,
    PlanRows,
    PlanRun,
    look,
    read_order,
    read_rows,
    refused,
)
from standby.recovery.plan_steps import (
    Does,
    Part,
    PlanStep,
    Stand,
    action_of,
    decide,
    decide_back,
)
from standby.recovery.steps import StepFailed

_STARTED: Final = {does: failpoints.declare(f"plan.{does}_started") for does in Does}
_DID: Final = {does: failpoints.declare(f"plan.{does}_did") for does in Does}
_DONE: Final = failpoints.declare("plan.noted")
_BACK: Final = failpoints.declare("plan.taken_back")


class Told(Protocol):
    def __call__(self, step: PlanStep, row: PlanRow) -> None: ...


def nobody(step: PlanStep, row: PlanRow) -> None:
    """A Told that nobody listens to."""


def create(
    plan: Plan,
    kind: Kind,
    root: Path,
    *,
    part: Part = Part.BOTH,
    confirmed: bool = False,
    clock: Clock | None = None,
    tag: str = "",
) -> Path:
    """The run directory of a run that has not begun; `go_on` begins it. root: where runs of plans are. tag: its name
    there, "" for a new one.

    Raises PlanRefused for a plan that is wrong by itself, NoCommonPoint. What the world has against it is told by
    plan_findings.
    """
    if wrong := problems(plan):
        raise PlanRefused(plan.name, tuple(wrong))
    if plan.together and kind is not Kind.PLANNED:
        plan = common(plan)
    clock = clock or SystemClock()
    tag = tag or run_directory.new_tag()
    order = PlanOrder(
        tag=tag,
        plan=plan,
        kind=kind,
        part=part,
        confirmed=confirmed,
        asked=clock.now().isoformat(),
        tags={member.id: run_directory.new_tag() for member in plan.members},
    )
    rows = PlanRows(rows=tuple(PlanRow(step=step.id) for step in order.steps))
    root = root.resolve()
    with run_directory.root_lock(root):
        return run_directory.make(root, tag, order, rows)


def go_on(run: Path, effects: Effects, *, clock: Clock | None = None, told: Told = nobody) -> PlanRun:
    """Do what can be done until the run is done, stopped by a failure, or waits for a person.

    Steps that an interrupted process left go on; steps that failed stay so until `retry`. Raises NotWaiting for a
    run that is being taken back, NoRecovery, RecoveryBusy, Bug.
    """
    run = run.resolve()
    with run_directory.run_lock(run):
        loop = _Loop(run, effects, clock or SystemClock(), told)
        if loop.rows.undoing:
            raise refused(run, "it is being taken back")
        loop.run()
    return look(run)


def take_back(run: Path, effects: Effects, *, clock: Clock | None = None, told: Told = nobody) -> PlanRun:
    """End the members' failovers, with all that their guests wrote. The run's record stays. May be repeated until
    it succeeds. Raises NoRecovery, RecoveryBusy."""
    run = run.resolve()
    with run_directory.run_lock(run):
        loop = _Loop(run, effects, clock or SystemClock(), told)
        loop.save(msgspec.structs.replace(loop.rows, undoing=True))
        loop.take_back()
    return look(run)


class _Ended(NamedTuple):
    step: PlanStep
    outcome: Outcome | None
    error: BaseException | None


class _Loop:
    """One process's work on a run."""

    def __init__(self, run: Path, effects: Effects, clock: Clock, told: Told) -> None:
        self._run = run
        self._effects = effects
        self._clock = clock
        self._told = told
        self.order = read_order(run)
        self._steps = {step.id: step for step in self.order.steps}
        self.rows = read_rows(run)
        if [row.step for row in self.rows.rows] != list(self._steps):
            raise Bug("its rows are not those of its steps", subject=str(run))
        self._ended: queue.Queue[_Ended] = queue.Queue()
        self._at_work: set[str] = set()

    def run(self) -> None:
        while True:
            decision = decide(
                tuple(self._steps.values()), self.rows.stands(), self._at_work, self.order.plan.parallel
            )
            for identity in decision.begin:
                self._begin(self._steps[identity])
            if self._at_work:
                self._finish(self._ended.get())
            elif not decision.begin:
                return

    def take_back(self) -> None:
        """Until nothing is left, or until what is left does not go."""
        failed: StandbyError | None = None
        while True:
            decision = decide_back(
                tuple(self._steps.values()), self.rows.stands(), self._at_work, self.order.plan.parallel
            )
            for identity in decision.begin if failed is None else ():
                step = self._steps[identity]
                self._note(step, stand=Stand.UNDOING, began=self._now(), ended="", error="")
                self._spawn(step, partial(self._take_back, step))
            if not self._at_work:
                break
            ended = self._ended.get()
            self._at_work.discard(ended.step.id)
            if ended.error is None:
                self._note(ended.step, stand=Stand.UNDONE, ended=self._now(), run="", text="")
                _BACK.reach()
            else:
                failed = _standby_error(ended.error, ended.step)
                self._note(ended.step, ended=self._now(), error=str(failed))
        if failed:
            raise failed

    def save(self, rows: PlanRows) -> None:
        run_directory.put(self._run / run_directory.ROWS, rows)
        self.rows = rows

    def _begin(self, step: PlanStep) -> None:
        row = self.rows.row(step.id)
        again = row.stand is Stand.STARTED
        self._note(
            step, stand=Stand.STARTED, began=self._now(), ended="", error="", text="", tries=row.tries + 1
        )
        _STARTED[step.does].reach()
        if step.does is Does.MANUAL:
            action = action_of(self.order.plan, step)
            assert isinstance(action, Manual)
            self._effects.ask(action)
            _DID[step.does].reach()
            self._note(step, stand=Stand.WAITING)
        else:
            situation = self._situation(step, again=again)
            self._spawn(step, partial(self._do, step, situation))

    def _spawn(self, step: PlanStep, work: Callable[[], Outcome]) -> None:
        self._at_work.add(step.id)

        def worker() -> None:
            try:
                self._ended.put(_Ended(step, work(), None))
            except BaseException as error:  # noqa: BLE001 - it is told, or raised, by the loop
                self._ended.put(_Ended(step, None, error))

        # Whoever interrupts the loop ends the process: what is at work is then as after a kill.
        threading.Thread(target=worker, name=f"standby-plan-{step.id}", daemon=True).start()

    def _do(self, step: PlanStep, situation: Situation) -> Outcome:
        plan = self.order.plan
        match step.does:
            case Does.SEAL:
                return self._effects.seal(plan.member(step.member))
            case Does.START:
                return self._effects.start(plan.member(step.member), self.order.tags[step.member])
            case Does.PROBE:
                member = plan.member(step.member)
                probe = member.probes[step.number]
                return self._effects.probe(member, self.order.tags[step.member], probe, situation)
            case _:
                action = action_of(plan, step)
                assert isinstance(action, Script)
                return self._effects.script(action, situation)

    def _take_back(self, step: PlanStep) -> Outcome:
        self._effects.take_back(self.order.plan.member(step.member), self.order.tags[step.member])
        return Outcome()

    def _finish(self, ended: _Ended) -> None:
        step = ended.step
        self._at_work.discard(step.id)
        if ended.outcome is not None:
            _DID[step.does].reach()
            done = ended.outcome
            self._note(
                step,
                stand=Stand.DONE,
                ended=self._now(),
                text=done.text,
                facts=dict(done.facts),
                run=done.run,
            )
        else:
            assert ended.error is not None
            error = _standby_error(ended.error, step)
            run = self._effects.found(self.order.tags[step.member]) if step.does is Does.START else ""
            self._note(step, stand=Stand.FAILED, ended=self._now(), error=str(error), run=run)
        _DONE.reach()

    def _situation(self, step: PlanStep, *, again: bool) -> Situation:
        """What programs are told of the run."""
        number = list(self._steps).index(step.id)
        environment = {
            STEP: f"{self._run}:{step.id}",
            "STANDBY_PLAN": self.order.plan.name,
            "STANDBY_KIND": self.order.kind.value,
            "STANDBY_GROUP": step.group,
            "STANDBY_RUN": str(self._run),
            "STANDBY_TRY": str(self.rows.row(step.id).tries),
            "STANDBY_MEMBERS": self._members(),
        }
        if step.does is Does.PROBE:
            environment["STANDBY_MEMBER"] = step.member
            environment["STANDBY_MEMBER_RUN"] = self.rows.row(f"start:{step.member}").run
        return Situation(environment, self._run / OUTPUT / f"{number:03}.log", again)

    def _members(self) -> str:
        """Each member, a line of JSON."""
        lines = []
        for step in self._steps.values():
            if step.does is Does.START:
                row = self.rows.row(step.id)
                told = {"member": step.member, "group": step.group, "state": row.stand.value, "run": row.run}
                lines.append(msgspec.json.encode(told).decode())
        return "\n".join(lines)

    def _note(self, step: PlanStep, **changes: object) -> None:
        row = msgspec.structs.replace(self.rows.row(step.id), **changes)
        kept = tuple(row if one.step == step.id else one for one in self.rows.rows)
        self.save(msgspec.structs.replace(self.rows, rows=kept))
        self._told(step, row)

    def _now(self) -> str:
        return self._clock.now().isoformat()


def _standby_error(error: BaseException, step: PlanStep) -> StandbyError:
    """An error of a step as it is noted. Raises what is a defect, or a test's."""
    if isinstance(error, Bug) or not isinstance(error, StandbyError | OSError):
        raise error
    if isinstance(error, StandbyError):
        return error
    failed = StepFailed(
        f"the host refuses: {error.strerror or error}",
        subject=str(error.filename or step.id),
        hint="see whether it has space, memory and rights, then `standby plan continue`",
    )
    failed.__cause__ = error
    return failed
