"""What a policy can be, with the arithmetic; all that stands against it at once."""

from __future__ import annotations

from datetime import time

import msgspec
import pytest

from standby.replication.hours import Hours
from standby.replication.limits import LOWEST, Bandwidth
from standby.replication.policy import FREQUENCIES, Measured, Policy, PolicyRefused, findings, points
from standby.replication.window import ResyncWindow, Start

GIB = 1 << 30
MIB = 1 << 20


SUNDAYS = Hours(start=time(1), end=time(2), days=frozenset([6]))
NEVER = Hours(start=time(1), end=time(2), days=frozenset())


@pytest.mark.parametrize(
    ("good", "bad", "told"),
    [
        ({"frequency": 900}, {"frequency": 7}, "a frequency of 7 s (it can be 1, 5, 30, 300, 900)"),
        ({"frequency": 5}, {"frequency": 0}, "a frequency of 0 s"),
        (
            {"application_consistent_hours": 12},
            {"application_consistent_hours": 13},
            "every 13 hours (it can be every 1 to 12, or 0 for never)",
        ),
        ({"application_consistent_hours": 0}, {"application_consistent_hours": -1}, "every -1 hours"),
        ({"retention_hours": 1}, {"retention_hours": 0}, "kept for 0 hours (it can be 1 or more)"),
        (
            {"frequency": 30, "retention_hours": 833},
            {"frequency": 30, "retention_hours": 834},
            "834 h of points every 30 s are 100,080 points, more than the 100,000 that a replica holds "
            "(keep them for up to 833 h, or make fewer)",
        ),
        (
            {"retention_hours": 4, "application_consistent_hours": 4},
            {"retention_hours": 3, "application_consistent_hours": 4},
            "every 4 h, and points kept for 3 h: most of the time there would be none (keep points for 4 h or more)",
        ),
        ({"backlog_percent": 1}, {"backlog_percent": 0}, "0 % of a disk (it can be 1 to 100 %)"),
        ({"backlog_percent": 100}, {"backlog_percent": 101}, "101 % of a disk"),
        ({"reserve": 0}, {"reserve": -1}, "-1 bytes kept free"),
        ({"upload_threads": 1}, {"upload_threads": 0}, "0 upload threads (it can be 1 to 32)"),
        ({"upload_threads": 32}, {"upload_threads": 33}, "33 upload threads"),
        (
            {"resync": ResyncWindow(start=Start.MANUAL, hours=Hours(start=time(1), end=time(1)))},
            {"resync": ResyncWindow(start=Start.SCHEDULED, hours=Hours(start=time(1), end=time(1)))},
            "a resynchronization window 01:00–01:00, from a time to the same time",
        ),
        (
            {"resync": ResyncWindow(start=Start.SCHEDULED, hours=SUNDAYS)},
            {"resync": ResyncWindow(start=Start.SCHEDULED, hours=NEVER)},
            "a resynchronization window on no day",
        ),
    ],
)
def test_a_value_at_the_edge_is_taken_and_one_past_it_is_told_what_it_can_be(good, bad, told):
    Policy(**good)
    with pytest.raises(PolicyRefused) as refused:
        Policy(**bad)
    assert told in str(refused.value)
    assert len(refused.value.findings) == 1


def test_every_finding_is_listed():
    with pytest.raises(PolicyRefused) as refused:
        Policy(frequency=7, application_consistent_hours=99, backlog_percent=500, upload_threads=64)
    assert len(refused.value.findings) == 5
    assert all(finding.blocks for finding in refused.value.findings)


def test_the_default_has_nothing_against_it():
    assert findings(Policy(), Measured((10 * GIB,), cut=0.05, stored=MIB)) == ()
    assert points(Policy()) == 2880


@pytest.mark.parametrize(
    ("frequency", "cut", "blocks"),
    [(1, 0.25, None), (1, 0.26, True), (1, None, False), (5, None, None), (5, 1.25, None), (5, 1.26, True)],
)
def test_a_frequency_must_leave_room_for_the_measured_cut(frequency, cut, blocks):
    found = findings(Policy(frequency=frequency, retention_hours=2), Measured((GIB,), cut=cut))
    assert [one.blocks for one in found] == ([] if blocks is None else [blocks])


def test_a_cut_that_is_too_long_says_which_frequency_is_possible():
    policy = Policy(frequency=1, retention_hours=2)
    [found] = findings(policy, Measured((GIB,), cut=1.3))
    assert found.problem == (
        "points every 1 s leave 0.25 s for a cut (25% of the interval), and a cut of this machine takes 1.30 s"
    )
    assert found.fix == "choose a point every 30 s or more"
    [found] = findings(policy, Measured((GIB,), cut=1.25))
    assert found.fix == "choose a point every 5 s or more"
    [found] = findings(policy, Measured((GIB,), cut=900 * 0.25 + 1))
    assert found.fix == "see why its cuts take so long"


def test_many_points_are_advised_against_with_the_arithmetic():
    [found] = findings(Policy(frequency=1), Measured((GIB,), cut=0.01))
    assert not found.blocks
    assert found.problem.startswith("24 h of points every 1 s are 86,400 points; ")


def test_a_bandwidth_below_the_churn_and_a_queue_that_fills_within_the_hour_are_told():
    policy = Policy(bandwidth=Bandwidth(work=LOWEST, other=10 * MIB))
    slow, full = findings(policy, Measured((4 * GIB,), cut=0.1, stored=30 * MIB))
    assert slow.problem == (
        "30.0 MiB every 30 s are 1.0 MiB/s, and 62.5 KiB/s are allowed in work hours: the queue grows meanwhile"
    )
    assert full.problem == (
        "a queue of 50 % of 4.0 GiB is 2.0 GiB; at 1.0 MiB/s it takes a store that is away for 34 min to fill it"
    )
    assert not slow.blocks
    assert not full.blocks


@pytest.mark.parametrize("frequency", FREQUENCIES)
def test_a_policy_survives_json_and_older_ones_are_read(frequency):
    policy = Policy(
        frequency=frequency, resync=ResyncWindow(start=Start.AUTOMATIC), bandwidth=Bandwidth(work=LOWEST)
    )
    assert msgspec.json.decode(msgspec.json.encode(policy), type=Policy) == policy
    old = b'{"frequency":%d,"application_consistent_hours":3}' % frequency
    assert msgspec.json.decode(old, type=Policy) == Policy(
        frequency=frequency, application_consistent_hours=3
    )
