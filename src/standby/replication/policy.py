"""What an operator decides about a protected machine."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from standby.errors import InvalidRequest
from standby.records import Finding
from standby.replication.forecast import BACKLOG_PERCENT, KEPT_FREE, size_of
from standby.replication.limits import MOST_UPLOAD_THREADS, UPLOAD_THREADS, Bandwidth
from standby.replication.statistics import Monitoring
from standby.replication.window import ResyncWindow, Start

FREQUENCIES: Final = (1, 5, 30, 300, 900)
"""Seconds between points. Azure Site Recovery and Hyper-V Replica offer 30, 300 and 900."""

RETENTION_HOURS: Final = 24
"""Azure Site Recovery's most; here the default, with no such bound."""

MOST_POINTS: Final = 100_000
"""Points of full frequency in one replica: each is an object to list and a record to check when it is opened."""

MANY_POINTS: Final = 20_000
"""Points from which on opening takes noticeably longer between two merges."""

CUT_SHARE: Final = 0.25
"""Most of an interval that a cut may take: while one is open, the guest's writes are copied before they are made."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """frequency: seconds between points. application_consistent_hours: every so many hours a point with
    the guest's file systems frozen; 0 for never (Azure Site Recovery: 1 to 12).

    retention_hours: how long every point is kept. backlog_percent: of a disk's size, how much of logs may wait
    for the store. reserve: bytes that logs leave free where they lie. resync: when a resynchronization may
    begin. bandwidth, upload_threads: this machine's own limits; the host's
    holds besides. Raises PolicyRefused with everything that stands against it.
    """

    frequency: int = 30
    application_consistent_hours: int = 0
    retention_hours: int = RETENTION_HOURS
    backlog_percent: int = BACKLOG_PERCENT
    reserve: int = KEPT_FREE
    resync: ResyncWindow = ResyncWindow()
    bandwidth: Bandwidth = Bandwidth()
    upload_threads: int = UPLOAD_THREADS
    monitoring: Monitoring = Monitoring()

    def __post_init__(self) -> None:
        if findings := _refused(self):
            raise PolicyRefused(findings)


class PolicyRefused(InvalidRequest):
    """Values of a policy cannot be, alone or together; `findings` lists all of them."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        self.findings = findings
        super().__init__("; ".join(f"{one.problem} ({one.fix})" for one in findings), subject="policy")


class Measured(NamedTuple):
    """What is known of a machine: its disks' sizes, seconds that a cut took (None if none was made yet),
    bytes of a point's logs on average (None likewise)."""

    sizes: tuple[int, ...]
    cut: float | None = None
    stored: float | None = None


def findings(policy: Policy, measured: Measured) -> tuple[Finding, ...]:
    """What stands against the policy on this machine, or is worth knowing before it is used: all of it."""
    found = []
    longest = policy.frequency * CUT_SHARE
    if measured.cut is None and policy.frequency == min(FREQUENCIES):
        found.append(
            _advice(
                f"points every second leave {longest:g} s for a cut, and none was measured on this machine yet",
                "begin with a point every 5 s and look at its statistics",
            )
        )
    elif measured.cut is not None and measured.cut > longest:
        allowed = [one for one in FREQUENCIES if one * CUT_SHARE >= measured.cut]
        found.append(
            Finding(
                subject="policy",
                problem=f"points every {policy.frequency} s leave {longest:g} s for a cut ({CUT_SHARE:.0%} of the "
                f"interval), and a cut of this machine takes {measured.cut:.2f} s",
                fix=f"choose a point every {allowed[0]} s or more"
                if allowed
                else "see why its cuts take so long",
                blocks=True,
            )
        )
    count = points(policy)
    if count > MANY_POINTS:
        found.append(
            _advice(
                f"{_arithmetic(policy)}; opening one of more than {MANY_POINTS:,} takes noticeably longer",
                "keep them for less time, or make fewer",
            )
        )
    if measured.stored is not None:
        found += _of_rates(policy, measured, measured.stored)
    return tuple(found)


def points(policy: Policy) -> int:
    """Points of full frequency that the policy keeps."""
    return policy.retention_hours * 3600 // policy.frequency


def _of_rates(policy: Policy, measured: Measured, stored: float) -> list[Finding]:
    found = []
    needed = stored / policy.frequency
    for name, rate in (("in work hours", policy.bandwidth.work), ("outside of them", policy.bandwidth.other)):
        if rate is not None and rate < needed:
            found.append(
                _advice(
                    f"{size_of(int(stored))} every {policy.frequency} s are {size_of(int(needed))}/s, and "
                    f"{size_of(rate)}/s are allowed {name}: the queue grows meanwhile",
                    "allow more, or make points less often: what is written twice in between is sent once",
                )
            )
    room = sum(measured.sizes) * policy.backlog_percent // 100
    if needed and room / needed < 3600:
        found.append(
            _advice(
                f"a queue of {policy.backlog_percent} % of {size_of(sum(measured.sizes))} is {size_of(room)}; at "
                f"{size_of(int(needed))}/s it takes a store that is away for {int(room / needed) // 60} min to fill it",
                "raise the share, or see what writes so much",
            )
        )
    return found


def _refused(policy: Policy) -> tuple[Finding, ...]:
    found = []

    def check(allowed: bool, problem: str, fix: str) -> None:
        if not allowed:
            found.append(Finding(subject="policy", problem=problem, fix=fix, blocks=True))

    listed = ", ".join(map(str, FREQUENCIES))
    check(
        policy.frequency in FREQUENCIES,
        f"a frequency of {policy.frequency} s",
        f"it can be {listed}",
    )
    check(
        0 <= policy.application_consistent_hours <= 12,
        f"an application-consistent point every {policy.application_consistent_hours} hours",
        "it can be every 1 to 12, or 0 for never",
    )
    check(
        policy.retention_hours >= 1, f"points kept for {policy.retention_hours} hours", "it can be 1 or more"
    )
    if policy.frequency > 0:
        longest = MOST_POINTS * policy.frequency // 3600
        check(
            points(policy) <= MOST_POINTS,
            f"{_arithmetic(policy)}, more than the {MOST_POINTS:,} that a replica holds",
            f"keep them for up to {longest:,} h, or make fewer",
        )
    if 0 < policy.retention_hours < policy.application_consistent_hours:
        check(
            False,
            f"an application-consistent point every {policy.application_consistent_hours} h, and points kept for "
            f"{policy.retention_hours} h: most of the time there would be none",
            f"keep points for {policy.application_consistent_hours} h or more",
        )
    check(
        1 <= policy.backlog_percent <= 100,
        f"a backlog of {policy.backlog_percent} % of a disk",
        "it can be 1 to 100 %",
    )
    check(policy.reserve >= 0, f"{policy.reserve} bytes kept free", "it can be 0 or more")
    check(
        1 <= policy.upload_threads <= MOST_UPLOAD_THREADS,
        f"{policy.upload_threads} upload threads",
        f"it can be 1 to {MOST_UPLOAD_THREADS}",
    )
    hours = policy.resync.hours
    check(
        policy.resync.start is not Start.SCHEDULED or bool(hours.days),
        "a resynchronization window on no day",
        "it can be on one weekday or more; or resynchronize automatically or by hand",
    )
    check(
        policy.resync.start is not Start.SCHEDULED or hours.start != hours.end,
        f"a resynchronization window {hours}, from a time to the same time",
        "it can be two different times; or resynchronize automatically, at any time",
    )
    return tuple(found)


def _arithmetic(policy: Policy) -> str:
    return f"{policy.retention_hours:,} h of points every {policy.frequency} s are {points(policy):,} points"


def _advice(problem: str, fix: str) -> Finding:
    return Finding(subject="policy", problem=problem, fix=fix, blocks=False)
