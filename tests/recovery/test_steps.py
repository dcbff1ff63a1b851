"""The workflow of a recovery: its pure planner, and the runner stopped everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby import failpoints
from standby.errors import NeedsPerson
from standby.recovery.steps import (
    Action,
    CleanUpBegun,
    Journal,
    Row,
    State,
    Step,
    Verb,
    Workflow,
    nothing,
    plan,
)
from tests.support.replicas import FixedClock


class Memory:
    """Rows as another process would find them."""

    def __init__(self, names) -> None:
        self.journal = Journal(rows=tuple(Row(step=name, task="Task") for name in names))

    def load(self) -> Journal:
        return self.journal

    def save(self, journal: Journal) -> None:
        self.journal = journal


class World:
    """Three things that steps make; each must be made once, in order, and taken back in reverse."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.history: list[str] = []
        self.broken = ""

    def steps(self) -> list[Step]:
        return [self._step(name) for name in ("a", "b", "c")]

    def _step(self, name: str) -> Step:
        def do() -> None:
            assert name not in self.made, f"{name} is made twice"
            if self.broken == name:
                raise NeedsPerson("it is broken", subject=name)
            self.made.append(name)
            self.history.append(f"do {name}")

        def undo() -> None:
            if name in self.made:
                self.made.remove(name)
                self.history.append(f"undo {name}")

        return Step(name, "Task", do, undo, lambda: {} if name in self.made else None)


def workflow(world: World, rows: Memory) -> Workflow:
    return Workflow(world.steps(), rows, FixedClock())


@pytest.mark.parametrize(
    ("states", "confirmed", "undoing", "action"),
    [
        ([State.PENDING, State.PENDING], 0, False, Action(Verb.DO, 0)),
        ([State.DONE, State.PENDING], 0, False, Action(Verb.ASK, 0)),
        ([State.DONE, State.PENDING], 1, False, Action(Verb.DO, 1)),
        ([State.STARTED, State.PENDING], 0, False, Action(Verb.ASK, 0)),
        ([State.DONE, State.DONE], 2, False, None),
        ([State.DONE, State.STARTED, State.PENDING], 0, True, Action(Verb.UNDO, 1)),
        ([State.DONE, State.UNDOING, State.PENDING], 0, True, Action(Verb.UNDO, 1)),
        ([State.DONE, State.UNDONE, State.PENDING], 0, True, Action(Verb.UNDO, 0)),
        ([State.UNDONE, State.PENDING], 0, True, None),
    ],
)
def test_plan(states, confirmed, undoing, action):
    assert plan(states, confirmed, undoing) == action


@given(st.lists(st.sampled_from(list(State)), min_size=1, max_size=6))
def test_undoing_always_ends_and_goes_backwards(states):
    states = list(states)
    seen = []
    while action := plan(states, 0, True):
        assert action.verb is Verb.UNDO
        states[action.step] = State.UNDONE
        seen.append(action.step)
    assert seen == sorted(seen, reverse=True)
    assert set(states) <= {State.UNDONE, State.PENDING}


def failpoints_of_steps() -> list[str]:
    return [name for name in failpoints.declared() if name.startswith("steps.")]


@pytest.mark.parametrize("count", range(1, 4))
@pytest.mark.parametrize("name", failpoints_of_steps())
def test_stopped_anywhere_it_goes_on_and_can_be_undone(name, count):
    world, rows = World(), Memory("abc")
    failpoints.arm(f"{name}=raise@{count}")
    try:
        workflow(world, rows).run()
        workflow(world, rows).undo()
    except failpoints.FailpointHit:
        pass
    finally:
        failpoints.arm("")
    if not rows.journal.undoing:
        assert workflow(world, rows).run().complete
        assert world.made == ["a", "b", "c"]
    assert workflow(world, rows).undo().clean
    assert world.made == []


def test_the_steps_have_failpoints():
    assert len(failpoints_of_steps()) >= 6


def test_a_step_that_fails_is_told_and_tried_again():
    world, rows, told = World(), Memory("abc"), []
    world.broken = "b"
    with pytest.raises(NeedsPerson, match="b: it is broken"):
        workflow(world, rows).run(told.append)
    assert told[-1].error.startswith("b: it is broken")
    world.broken = ""
    assert workflow(world, rows).run().complete
    assert world.history == ["do a", "do b", "do c"]


def test_what_the_world_lost_is_made_again():
    world, rows = World(), Memory("abc")
    workflow(world, rows).run()
    world.made.remove("b")
    workflow(world, rows).run()
    assert sorted(world.made) == ["a", "b", "c"]


def test_a_clean_up_that_began_is_not_turned_round():
    world, rows = World(), Memory("abc")
    workflow(world, rows).run()
    workflow(world, rows).undo()
    with pytest.raises(CleanUpBegun):
        workflow(world, rows).run()
    assert nothing() is None
