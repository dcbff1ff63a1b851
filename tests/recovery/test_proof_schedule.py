"""When a proof is due, and which points a bisection starts: pure."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standby.errors import InvalidRequest
from standby.recovery.proof_bisect import bisect
from standby.recovery.proof_schedule import Due, Schedule, due, overdue
from standby.replica.documents import Record
from standby.replica.proofs import Proof
from tests.support.replicas import REPLICA

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def record(seq: int) -> Record:
    return Record(replica=REPLICA, seq=seq, epoch=1, kind="point", nonce="", parent="", at="", writer="")


def proof(seq: int, ago: timedelta, verdict: str = "passed") -> Proof:
    return Proof(
        replica=REPLICA, id=f"{seq:026d}", seq=seq, record="", machine="web", at=(NOW - ago).isoformat(), point_at="",
        consistency="", by="", verdict=verdict, reasons=(),
    )  # fmt: skip


EVERY_TEN, DAILY = Schedule(points=10), Schedule(every=DAY)


@pytest.mark.parametrize(
    ("schedule", "points", "proofs", "answer"),
    [
        (Schedule(), range(2, 50), [], None),
        (EVERY_TEN, [], [], None),
        (EVERY_TEN, [2], [], Due(2, "no point was proved yet")),
        (EVERY_TEN, range(2, 12), [proof(2, HOUR)], None),
        (EVERY_TEN, range(2, 13), [proof(2, HOUR)], Due(12, "10 points were made since point 2 was proved")),
        (EVERY_TEN, range(2, 13), [proof(2, HOUR), proof(9, HOUR / 2)], None),
        (EVERY_TEN, [2, 9, 10, 11], [proof(2, 9 * DAY)], None),
        (DAILY, range(2, 99), [proof(2, DAY - HOUR)], None),
        (DAILY, range(2, 99), [proof(2, 3 * DAY)], Due(98, "the last proof is 3 days old")),
        (DAILY, range(2, 99), [proof(2, DAY)], Due(98, "the last proof is 24 h old")),
        (DAILY, [2, 3], [proof(3, 9 * DAY)], None),
        (Schedule(points=10, every=DAY), [2, 3], [proof(2, 2 * DAY)], Due(3, "the last proof is 2 days old")),
    ],
)
def test_a_proof_is_due_by_points_or_by_time(schedule, points, proofs, answer):
    assert due(schedule, [record(seq) for seq in points], proofs, NOW) == answer


@pytest.mark.parametrize(
    ("since", "proofs", "told"),
    [
        (3 * DAY, [], ""),
        (31 * DAY, [], "No point was proved to boot in 31 days; the limit is 30 days."),
        (90 * DAY, [proof(5, 2 * DAY)], ""),
        (90 * DAY, [proof(5, 40 * DAY)], "The newest proof that passed is 40 days old; the limit is 30 days."),
        (90 * DAY, [proof(5, 40 * DAY), proof(9, DAY, "failed")],
         "The newest proof that passed is 40 days old; the limit is 30 days."),
    ],
)  # fmt: skip
def test_a_drill_is_overdue(since, proofs, told):
    assert overdue(Schedule(overdue=30 * DAY), NOW - since, proofs, NOW) == told
    assert overdue(Schedule(), NOW - since, proofs, NOW) == ""


@given(
    st.integers(2, 200).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count - 1))),
    st.sets(st.integers(0, 199), max_size=3),
)
def test_a_bisection_finds_the_first_point_that_fails(shape, unsure):
    count, first_bad = shape
    points = [3 * at + 2 for at in range(count)]

    def verdict(seq):
        at = points.index(seq)
        if at in unsure and at not in (count - 1, 0):
            return "unsure"
        return "failed" if at >= first_bad else "passed"

    found = bisect(points, {}, verdict)
    low, high = points.index(found.good), points.index(found.bad)
    assert low < first_bad <= high
    assert all(verdict(seq) == "unsure" for seq in found.between)
    assert high - low == len(found.between) + 1
    assert len({seq for seq, _ in found.tested}) == len(found.tested)
    assert len(found.tested) <= 2 * math.ceil(math.log2(count)) + 3 + len(unsure)


def test_what_is_known_is_not_started_again():
    known = {2: "passed", 9: "failed", 5: "passed"}
    asked = []

    def verdict(seq):
        asked.append(seq)
        return "failed" if seq >= 7 else "passed"

    assert bisect(range(2, 10), known, verdict)[:3] == (6, 7, ())
    assert set(asked) <= {6, 7, 8}


@pytest.mark.parametrize(
    ("verdicts", "options", "message"),
    [
        ({2: "passed", 3: "passed"}, {}, "its verdict is: passed"),
        ({2: "failed", 3: "failed"}, {}, "no point before it was found to work"),
        ({2: "failed", 3: "failed"}, {"good": 2}, "its verdict is: failed"),
        ({2: "passed", 3: "failed"}, {"good": 3}, "it is not before the one that fails"),
        ({2: "passed", 3: "failed"}, {"bad": 9}, "there is no point 9"),
        ({}, {}, "there is no point yet"),
    ],
)
def test_a_bisection_without_ends_is_refused(verdicts, options, message):
    with pytest.raises(InvalidRequest, match=message):
        bisect(sorted(verdicts), verdicts, verdicts.__getitem__, **options)
