"""Breadth-first walk through every state that a set of processes can reach.

A model gives its initial state, and for a state all steps that any process may take next. One step is one
operation on the store, so all interleavings, stalls and deaths between operations are covered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, NamedTuple, TypeVar

State = TypeVar("State")


class Step(NamedTuple, Generic[State]):
    """rule: what was done, for the trace. wrong: what this step itself breaks, if anything."""

    rule: str
    state: State
    wrong: str | None = None


class Violation(NamedTuple):
    what: str
    trace: tuple[str, ...]
    """The rules carried out from the initial state on; a shortest way to the violation."""


class Outcome(NamedTuple):
    states: int
    violation: Violation | None


def explore(
    initial: State,
    steps: Callable[[State], Iterable[Step[State]]],
    broken: Callable[[State], str | None],
) -> Outcome:
    """Every reachable state, until one breaks an invariant (`broken` names it) or none is new."""
    came_from: dict[State, State | None] = {initial: None}
    queue = deque([initial])
    while queue:
        state = queue.popleft()
        for rule, after, wrong in steps(state):
            if wrong is None and after in came_from:
                continue
            wrong = wrong or broken(after)
            if wrong is not None:
                return Outcome(len(came_from), Violation(wrong, (*_trace(state, came_from, steps), rule)))
            came_from[after] = state
            queue.append(after)
    return Outcome(len(came_from), None)


def _trace(
    state: State, came_from: dict[State, State | None], steps: Callable[[State], Iterable[Step[State]]]
) -> list[str]:
    rules: list[str] = []
    while (before := came_from[state]) is not None:
        rules.append(next(step.rule for step in steps(before) if step.state == state))
        state = before
    return rules[::-1]
