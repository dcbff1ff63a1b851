"""What a plan's run does, as steps, and which of them come next. Pure: it knows neither hosts nor processes.

A step begins once all steps that it `needs` are done and all those that it comes `behind` are settled: done, passed
over by a person, or failed where the plan goes on all the same. Whoever drives a run, the runner on one host
(plan_run.py) or a vault through its jobs, asks `decide` after each change, and does what it says.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

import msgspec

from standby.recovery.plan_document import Action, Group, Kind, Manual, Member, Plan, Script


class Part(StrEnum):
    """Which half of a planned run: the source's, the recovery host's, or both where one host is both."""

    SEAL = "seal"
    START = "start"
    BOTH = "both"


class Does(StrEnum):
    SEAL = "seal"
    START = "start"
    PROBE = "probe"
    SCRIPT = "script"
    MANUAL = "manual"


class Stand(StrEnum):
    """Of a step. FAILED: its error stays until it is tried again. PASSED: a person goes on without it."""

    PENDING = "pending"
    STARTED = "at work"
    WAITING = "waits for input"
    DONE = "done"
    FAILED = "failed"
    PASSED = "passed over"
    UNDOING = "being taken back"
    UNDONE = "taken back"


class Phase(StrEnum):
    RUNNING = "running"
    WAITING = "waits for input"
    STOPPED = "stopped"
    DONE = "done"
    CANCELLING = "being taken back"
    CLEAN = "taken back"


class PlanStep(msgspec.Struct, frozen=True, kw_only=True):
    """group: its group's name, "" for shutting down. member: its name, "" for an action's step. number: of the
    probe or of the action in the plan. lenient: its failure does not stop what comes behind."""

    id: str
    does: Does
    group: str = ""
    member: str = ""
    number: int = 0
    needs: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    lenient: bool = False


class Decision(NamedTuple):
    """begin: steps to begin now, in order."""

    phase: Phase
    begin: tuple[str, ...] = ()


_OVER: Final = (Stand.DONE, Stand.PASSED)


def steps_of(plan: Plan, kind: Kind, part: Part = Part.BOTH) -> tuple[PlanStep, ...]:
    """Every step of a run, in the order in which people read them."""
    found: list[PlanStep] = []
    behind: tuple[str, ...] = ()
    if kind is Kind.PLANNED and part is not Part.START:
        for wave in plan.shutdown_order:
            found += (
                PlanStep(id=f"seal:{name}", does=Does.SEAL, member=name, behind=behind) for name in wave
            )
            behind = tuple(f"seal:{name}" for name in wave)
    if part is Part.SEAL:
        return tuple(found)
    for group in plan.groups:
        for when, actions in (("before", group.before), ("", ()), ("after", group.after)):
            if not when:
                members = _of_members(group, kind, behind)
                found += members
                behind = tuple(step.id for step in members) or behind
            for number, action in enumerate(actions):
                if kind in action.kinds:
                    found.append(_of_action(group, when, number, action, behind))
                    behind = (found[-1].id,)
    return tuple(found)


def _of_members(group: Group, kind: Kind, behind: tuple[str, ...]) -> list[PlanStep]:
    return [step for member in group.members for step in _of_member(group, member, kind, behind)]


def _of_member(group: Group, member: Member, kind: Kind, behind: tuple[str, ...]) -> list[PlanStep]:
    def step(identity: str, does: Does, number: int = 0, needs: tuple[str, ...] = ()) -> PlanStep:
        return PlanStep(
            id=identity,
            does=does,
            group=group.name,
            member=member.id,
            number=number,
            needs=needs,
            behind=behind,
            lenient=group.go_on,
        )

    chain = [step(f"start:{member.id}", Does.START)]
    for number, probe in enumerate(member.probes):
        if kind in probe.kinds:
            chain.append(step(f"probe:{member.id}:{number + 1}", Does.PROBE, number, (chain[-1].id,)))
    return chain


def _of_action(group: Group, when: str, number: int, action: Action, behind: tuple[str, ...]) -> PlanStep:
    return PlanStep(
        id=f"{when}:{group.name}:{action.name}",
        does=Does.MANUAL if isinstance(action, Manual) else Does.SCRIPT,
        group=group.name,
        number=number,
        behind=behind,
        lenient=group.go_on,
    )


def action_of(plan: Plan, step: PlanStep) -> Script | Manual:
    """The action that a step is."""
    group = next(one for one in plan.groups if one.name == step.group)
    return (group.before if step.id.startswith("before:") else group.after)[step.number]


def decide(
    steps: Sequence[PlanStep], stands: Mapping[str, Stand], at_work: Collection[str], parallel: int
) -> Decision:
    """What comes next. at_work: steps that somebody works on; one that is STARTED and not among them was
    interrupted, and begins again. parallel: steps at work at once; people take no place."""
    known = {step.id: step for step in steps}
    settled: dict[str, bool] = {}

    def is_settled(identity: str) -> bool:
        if identity not in settled:
            step, stand = known[identity], stands[identity]
            settled[identity] = stand in _OVER or (
                (stand is Stand.FAILED and step.lenient) or (stand is Stand.PENDING and is_moot(step))
            )
        return settled[identity]

    def is_moot(step: PlanStep) -> bool:
        """It will not be done, for what it needs was not, and nobody waits for it either."""
        return any(
            stands[need] is Stand.PASSED or (stands[need] is not Stand.DONE and is_settled(need))
            for need in step.needs
        )

    def is_ready(step: PlanStep) -> bool:
        if stands[step.id] is Stand.STARTED:
            return step.id not in at_work
        return (
            stands[step.id] is Stand.PENDING
            and all(stands[need] is Stand.DONE for need in step.needs)
            and all(map(is_settled, step.behind))
        )

    places = parallel - len(at_work)
    begin: list[str] = []
    for step in steps:
        if is_ready(step):
            if step.does is Does.MANUAL:
                begin.append(step.id)
            elif places > 0:
                begin.append(step.id)
                places -= 1
    if begin or at_work:
        return Decision(Phase.RUNNING, tuple(begin))
    if all(is_settled(step.id) for step in steps):
        return Decision(Phase.DONE)
    if Stand.WAITING in stands.values():
        return Decision(Phase.WAITING)
    return Decision(Phase.STOPPED)


def decide_back(
    steps: Sequence[PlanStep], stands: Mapping[str, Stand], at_work: Collection[str], parallel: int
) -> Decision:
    """What is taken back next: machines, the last group's first. The rest of a run leaves nothing behind but its
    record; and a seal stays, as the machine's last word."""
    left = [
        step
        for step in steps
        if step.does is Does.START and stands[step.id] not in (Stand.PENDING, Stand.UNDONE)
    ]
    if not left:
        return Decision(Phase.CLEAN)
    now = [step.id for step in left if step.group == left[-1].group and step.id not in at_work]
    return Decision(Phase.CANCELLING, tuple(now[: max(0, parallel - len(at_work))]))
