"""Finding the first point that fails between one that works and one that does not. Pure but for the `test` given.

As in every bisection, it is taken for granted that what broke stays broken; points whose proofs say otherwise are
told as such. A point that stays unsure is stepped around: then a range is found, and no more is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from standby.errors import InvalidRequest
from standby.replica.proofs import Verdict

Test = Callable[[int], Verdict]
"""Starts a point and looks at it."""


class Found(NamedTuple):
    """good: the last point that works. bad: the first that fails. between: those between the two that stay unsure,
    so that any of them may be the first. tested: what was started for it, in order."""

    good: int
    bad: int
    between: tuple[int, ...]
    tested: tuple[tuple[int, Verdict], ...]


def bisect(
    points: Sequence[int],
    known: Mapping[int, Verdict],
    test: Test,
    *,
    good: int | None = None,
    bad: int | None = None,
) -> Found:
    """points: all that there are, ascending. known: verdicts that need not be found again. good, bad: where to
    begin; by default the newest point, and of what is before it the newest that is known to work, or else older and
    older ones, ever farther back.

    Raises InvalidRequest where the newest does not fail, none works, or `good` and `bad` are not what they are said
    to be.
    """
    tested: list[tuple[int, Verdict]] = []
    verdicts = dict(known)

    def verdict(seq: int) -> Verdict:
        if seq not in verdicts:
            verdicts[seq] = test(seq)
            tested.append((seq, verdicts[seq]))
        return verdicts[seq]

    last = _bad(points, bad, verdict)
    first = _good(points, points.index(last), good, verdicts, verdict)
    low = points.index(first)
    high = next(at for at in range(low + 1, len(points)) if verdicts.get(points[at]) == "failed")
    unsure: set[int] = set()
    while candidates := [at for at in range(low + 1, high) if at not in unsure]:
        middle = min(candidates, key=lambda at: abs(2 * at - low - high))
        match verdict(points[middle]):
            case "passed":
                low = middle
            case "failed":
                high = middle
            case _:
                unsure.add(middle)
    return Found(points[low], points[high], tuple(points[low + 1 : high]), tuple(tested))


def _bad(points: Sequence[int], bad: int | None, verdict: Test) -> int:
    wanted = bad if bad is not None else points[-1] if points else None
    if wanted is None or wanted not in points:
        raise InvalidRequest(
            f"there is no point {wanted}" if points else "there is no point yet",
            subject="the point that fails",
            hint="`standby replica points` lists those that there are",
        )
    if (found := verdict(wanted)) != "failed":
        raise InvalidRequest(
            f"its verdict is: {found}",
            subject=f"point {wanted}",
            hint="name a point that fails with --bad; `standby replica proofs` tells why this one does not",
        )
    return wanted


def _good(
    points: Sequence[int], end: int, good: int | None, verdicts: Mapping[int, Verdict], verdict: Test
) -> int:
    """The newest point before `end` that is known to work, or that is found to by going back 1, 2, 4, … points."""
    before = points[:end]
    if good is not None:
        if good not in before or (found := verdict(good)) != "passed":
            cause = f"its verdict is: {found}" if good in before else "it is not before the one that fails"
            raise InvalidRequest(cause, subject=f"point {good}", hint="name a point that works with --good")
        return good
    for seq in reversed(before):
        if verdicts.get(seq) == "passed":
            return seq
    step, at = 1, len(before)
    while at > 0:
        at = max(at - step, 0)
        step *= 2
        if verdict(before[at]) == "passed":
            return before[at]
    raise InvalidRequest(
        "no point before it was found to work",
        subject=f"point {points[end]}",
        hint="`standby replica proofs` tells what each does; a longer --boot-limit may help, or --probe",
    )
