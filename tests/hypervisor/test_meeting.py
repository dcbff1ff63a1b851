"""Cuts that meet: all or none has the instant in common, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from standby.hypervisor.meeting import Meeting


def names(count: int) -> list[str]:
    return [f"m{number}" for number in range(count)]


def cut(meeting: Meeting, name: str, leaves: int = 3, why: str = "failed") -> bool:
    """One machine's cut: three meetings while ready, frozen, cut and thawed; it leaves at one, or at none."""
    votes = [meeting.ready, meeting.agree, meeting.agree, meeting.agree]
    answers = []
    for number, vote in enumerate(votes):
        if number == leaves:
            meeting.leave(name, why)
        answers.append(vote(name))
    return answers[-1]


def together(meeting: Meeting, leaves: list[int]) -> list[bool]:
    with ThreadPoolExecutor(len(leaves)) as pool:
        return list(pool.map(lambda n: cut(meeting, f"m{n}", leaves[n]), range(len(leaves))))


def test_all_have_it_in_common():
    meeting = Meeting("id", names(5))
    assert together(meeting, [9] * 5) == [True] * 5
    assert meeting.why == ""


@pytest.mark.parametrize("when", range(4))
def test_one_that_leaves_leaves_none_with_it(when):
    meeting = Meeting("id", names(4), ready=10, frozen=10)
    assert together(meeting, [9, 9, when, 9]) == [False] * 4
    assert meeting.why == "m2 failed"


def test_one_that_does_not_come_is_waited_for_no_longer_than_the_limit():
    meeting = Meeting("id", ["a", "b", "late"], ready=0.05, frozen=0.05)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda name: cut(meeting, name, 9), ("a", "b"))) == [False, False]
    assert meeting.why.startswith("late did not come while ")
    assert cut(meeting, "late", 9) is False


@pytest.mark.parametrize("seed", range(40))
def test_whoever_is_late_or_leaves_all_are_told_the_same(seed):
    rng = random.Random(seed)
    count = rng.randint(2, 6)
    leaves = [rng.choice([9, 9, 9, 0, 1, 2, 3]) for _ in range(count)]
    meeting = Meeting("id", names(count), ready=1, frozen=rng.choice([0.001, 1]))
    start = threading.Barrier(count)

    def late(number: int) -> bool:
        start.wait()
        return cut(meeting, f"m{number}", leaves[number])

    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(late, range(count)))
    assert len(set(answers)) == 1, "one has it in common and another has not"
    if min(leaves) < 9:
        assert answers[0] is False
