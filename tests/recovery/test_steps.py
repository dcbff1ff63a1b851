"""The planner for every state a kill can leave, and the runner stopped at every boundary."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby import failpoints
from standby.errors import Bug, Recoverable
from standby.failpoints import FailpointHit
from standby.recovery.steps import (
    Action,
    CleanUpBegun,
    Journal,
    Row,
    State,
    Step,
    StepFailed,
    Verb,
    Workflow,
    nothing,
    plan,
)
from tests.support.replicas import FixedClock

PENDING, STARTED, DONE, UNDOING, UNDONE = State
COUNT = 3
POINTS = [f"steps.{name}" for name in ("started", "did", "done", "undoing", "undid", "undone")]


@pytest.mark.parametrize(
    ("states", "confirmed", "undoing", "action"),
    [
        ([PENDING, PENDING], 0, False, Action(Verb.DO, 0)),
        ([DONE, PENDING], 0, False, Action(Verb.ASK, 0)),
        ([DONE, PENDING], 1, False, Action(Verb.DO, 1)),
        ([DONE, STARTED], 1, False, Action(Verb.ASK, 1)),
        ([DONE, DONE], 2, False, None),
        ([DONE, STARTED], 0, True, Action(Verb.UNDO, 1)),
        ([DONE, PENDING], 0, True, Action(Verb.UNDO, 0)),
        ([DONE, UNDOING], 0, True, Action(Verb.UNDO, 1)),
        ([DONE, UNDONE], 0, True, Action(Verb.UNDO, 0)),
        ([UNDONE, UNDONE], 0, True, None),
        ([PENDING, PENDING], 0, True, None),
        # What a step before it left undone by hand does not hide a later step.
        ([PENDING, STARTED, UNDONE], 0, True, Action(Verb.UNDO, 1)),
        ([], 0, False, None),
        ([], 0, True, None),
    ],
)
def test_what_comes_next(states, confirmed, undoing, action):
    assert plan(states, confirmed, undoing) == action


@given(st.lists(st.sampled_from(State), max_size=8), st.data())
def test_undoing_takes_the_last_step_that_may_have_left_something(states, data):
    action = plan(states, data.draw(st.integers(0, len(states))), True)
    left = [index for index, state in enumerate(states) if state not in (PENDING, UNDONE)]
    assert action == (Action(Verb.UNDO, left[-1]) if left else None)


@given(st.lists(st.sampled_from([PENDING, STARTED, DONE]), min_size=1, max_size=8), st.data())
def test_going_on_never_skips_a_step_nor_believes_a_row(states, data):
    confirmed = data.draw(st.integers(0, len(states) - 1))
    action = plan(states, confirmed, False)
    assert action is not None
    assert action.step == confirmed
    assert action.verb is (Verb.DO if states[confirmed] is PENDING else Verb.ASK)


class World:
    """What steps make: a set of numbers. Refuses what a step of the product could not do either."""

    def __init__(self, count: int = COUNT) -> None:
        self.count = count
        self.there: set[int] = set()
        self.calls: list[str] = []
        self.failing = ""
        self.saved = msgspec.json.encode(
            Journal(rows=tuple(Row(step=f"s{i}", task="task") for i in range(count)))
        )

    def load(self) -> Journal:
        return msgspec.json.decode(self.saved, type=Journal)

    def save(self, journal: Journal) -> None:
        self.saved = msgspec.json.encode(journal)

    def workflow(self) -> Workflow:
        return Workflow([self._step(number) for number in range(self.count)], self, FixedClock())

    def _call(self, verb: str, number: int) -> None:
        self.calls.append(f"{verb} {number}")
        if self.failing == self.calls[-1]:
            raise Recoverable("not now", subject=self.failing)

    def _step(self, number: int) -> Step:
        def do() -> dict[str, float]:
            assert number not in self.there, "begins from nothing"
            assert set(range(number)) <= self.there, "what it needs is there"
            assert self.load().rows[number].state is STARTED, "its row is durable before"
            self._call("do", number)
            self.there.add(number)
            return {f"fact{number}": number}

        def undo() -> None:
            self._call("undo", number)
            self.there.discard(number)

        def done() -> dict[str, float] | None:
            self._call("ask", number)
            return {f"fact{number}": number} if number in self.there else None

        return Step(f"s{number}", "task", do, undo, done)


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("")


def stop_at(point: str, time: int, work) -> bool:
    """Whether the work was stopped there."""
    failpoints.arm(f"{point}=raise@{time}")
    try:
        work()
    except FailpointHit:
        return True
    finally:
        failpoints.arm("")
    return False


def test_steps_are_done_in_order_and_undone_in_reverse():
    world, told = World(), []
    journal = world.workflow().run(told.append)
    assert journal.complete
    assert not journal.clean
    assert world.calls == ["do 0", "do 1", "do 2"]
    assert [row.facts for row in journal.rows] == [{f"fact{n}": n} for n in range(3)]
    assert [(row.step, row.state) for row in told] == [
        (f"s{n}", state) for n in range(3) for state in (STARTED, DONE)
    ]
    world.calls.clear()
    told.clear()
    journal = world.workflow().undo(told.append)
    assert journal.clean
    assert not journal.complete
    assert world.calls == ["undo 2", "undo 1", "undo 0"]
    assert [(row.step, row.state) for row in told] == [
        (f"s{n}", state) for n in (2, 1, 0) for state in (UNDOING, UNDONE)
    ]
    assert world.load() == journal


def test_a_complete_workflow_only_asks_when_it_is_run_again():
    world = World()
    before = world.workflow().run()
    world.calls.clear()
    assert world.workflow().run() == before
    assert world.calls == ["ask 0", "ask 1", "ask 2"]


def test_a_step_whose_work_is_gone_is_made_anew_from_nothing():
    world = World()
    world.workflow().run()
    world.there.discard(1)
    world.calls.clear()
    assert world.workflow().run().complete
    assert world.calls == ["ask 0", "ask 1", "undo 1", "do 1", "ask 2"]


@pytest.mark.parametrize(("point", "time"), list(itertools.product(POINTS[:3], range(1, COUNT + 1))))
def test_killed_while_doing_it_goes_on_to_the_same_end(point, time):
    world = World()
    assert stop_at(point, time, lambda: world.workflow().run())
    journal = world.workflow().run()
    assert journal.complete
    assert world.there == set(range(COUNT))
    # What a step measured survives that nobody lived to note it.
    assert [row.facts for row in journal.rows] == [{f"fact{n}": n} for n in range(3)]
    assert [world.calls.count(f"do {n}") for n in range(COUNT)] == [1] * COUNT


@pytest.mark.parametrize(("point", "time"), list(itertools.product(POINTS[:3], range(1, COUNT + 1))))
def test_killed_while_doing_it_is_undone(point, time):
    world = World()
    assert stop_at(point, time, lambda: world.workflow().run())
    world.calls.clear()
    assert world.workflow().undo().clean
    assert not world.there
    assert world.calls == [f"undo {n}" for n in reversed(range(time))]


@pytest.mark.parametrize(("point", "time"), list(itertools.product(POINTS[3:], range(1, COUNT + 1))))
def test_killed_while_undoing_it_goes_on_undoing_and_never_turns_round(point, time):
    world = World()
    world.workflow().run()
    assert stop_at(point, time, lambda: world.workflow().undo())
    with pytest.raises(CleanUpBegun):
        world.workflow().run()
    assert world.workflow().undo().clean
    assert not world.there


@given(
    st.lists(
        st.tuples(st.sampled_from(POINTS), st.integers(1, 6), st.sampled_from(["", "lose", "undo"])),
        max_size=8,
    )
)
def test_any_series_of_kills_ends_done_or_clean(lives):
    world = World()
    for point, time, event in lives:
        if event == "lose":
            world.there.discard(max(world.there, default=0))
        undoing = event == "undo" or world.load().undoing
        stop_at(point, time, world.workflow().undo if undoing else world.workflow().run)
        # What is in the world has a row that says so.
        maybe = {n for n, row in enumerate(world.load().rows) if row.state not in (PENDING, UNDONE)}
        assert world.there <= maybe
    if world.load().undoing:
        assert world.workflow().undo().clean
        assert not world.there
    else:
        assert world.workflow().run().complete
        assert world.there == set(range(COUNT))


def test_a_failing_step_stops_it_there_tells_why_and_is_tried_again():
    world, told = World(), []
    world.failing = "do 1"
    with pytest.raises(Recoverable, match="not now"):
        world.workflow().run(told.append)
    row = world.load().rows[1]
    assert (row.state, row.error, told[-1]) == (STARTED, "do 1: not now", row)
    assert row.ended
    world.failing = ""
    journal = world.workflow().run()
    assert journal.complete
    assert journal.rows[1].error == ""


def test_a_full_file_system_is_an_error_of_the_step_like_others():
    def full() -> None:
        raise OSError(28, "No space left on device", "/run/0.qcow2")

    world = World(1)
    step = Step("s0", "task", full, nothing, lambda: None)
    with pytest.raises(StepFailed, match=r"/run/0\.qcow2: .*No space left on device"):
        Workflow([step], world, FixedClock()).run()
    assert "No space" in world.load().rows[0].error


def test_a_failing_undo_leaves_the_rest_and_is_taken_up_again():
    world = World()
    world.workflow().run()
    world.failing = "undo 1"
    with pytest.raises(Recoverable, match="not now"):
        world.workflow().undo()
    assert [row.state for row in world.load().rows] == [DONE, UNDOING, UNDONE]
    assert world.load().rows[1].error == "undo 1: not now"
    world.failing = ""
    world.calls.clear()
    journal = world.workflow().undo()
    assert world.calls == ["undo 1", "undo 0"]
    assert journal.clean
    assert not any(row.error for row in journal.rows)


def test_a_failing_undo_on_the_way_forward_is_told_in_its_row():
    world = World()
    world.workflow().run()
    world.there.discard(1)
    world.failing = "undo 1"
    with pytest.raises(Recoverable):
        world.workflow().run()
    assert world.load().rows[1].error == "undo 1: not now"
    world.failing = ""
    assert world.workflow().run().complete


def test_undoing_twice_and_undoing_nothing_touch_nothing():
    world = World()
    assert world.workflow().undo().clean
    assert world.workflow().undo().clean
    assert world.calls == []


def test_rows_of_other_steps_are_refused():
    world = World()
    with pytest.raises(Bug, match="not those of other"):
        Workflow([Step("other", "task", lambda: None, nothing, lambda: None)], world, FixedClock())
