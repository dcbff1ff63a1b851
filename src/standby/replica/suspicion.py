"""Which points look as if somebody had begun to encrypt the machine's disks (decision 0019). Pure; a hint, no proof.

Encrypting leaves three marks in a log: much more is written than this machine writes otherwise, it is hardly
compressed, and most of it replaces what was there. Every machine is measured against its own points, by medians, which
a few wild ones do not move.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final, NamedTuple

from standby.replica.documents import Record

WINDOW: Final = 96
"""Points that a point is compared with."""

LEAST_HISTORY: Final = 12
"""Points before it without which nothing is said of a point: the first one, with all of the disks, among them."""

GROWN_USUAL: Final = 48
"""Points after which a flagged one counts as usual: a machine that has changed for good is not flagged for ever."""

COMPARED: Final = WINDOW + GROWN_USUAL
"""Points, the newest, without which a verdict on the newest would be another."""

LEAST_RAW: Final = 4 << 20
"""Bytes below which a point is never flagged: what a log's own tables take would pass for incompressible."""
_TELLING: Final = 256 << 10
"""Bytes from which on a log's compressibility counts for the history."""

RATIO: Final = 0.85
"""Stored by raw bytes from which on content counts as incompressible; random bytes come to 1.00."""
RATIO_ABOVE: Final = 0.15
"""By how much that must lie above the machine's median: a machine that stores photos all day is never told by it."""
CHURN_DEVIATIONS: Final = 4.0
LEAST_DEVIATION: Final = 0.5
"""Of the base-2 logarithm of raw bytes. A machine that always writes the same would be flagged for a little more."""
REWRITTEN: Final = 0.5
"""Share of touched blocks that held something before."""

_SIGMA: Final = 1.4826
"""Of a normal distribution: standard deviation by median absolute deviation."""

Rewritten = Callable[[int], float | None]
"""Of a point's number: which share of the blocks it touched held something before; None where that is not known."""


class Change(NamedTuple):
    """What a point changed: bytes of pages before compression, and of its logs as stored."""

    seq: int
    raw: int
    stored: int

    @property
    def ratio(self) -> float:
        return self.stored / self.raw if self.raw else 0.0

    @classmethod
    def of(cls, record: Record) -> Change:
        logs = [log for disk in record.disks for log in disk.logs]
        return cls(record.seq, sum(log.data for log in logs), sum(log.size for log in logs))


class Suspicion(NamedTuple):
    """Why a point is flagged. usual_*: medians of the points before it. rewritten: None where it is not known."""

    change: Change
    usual_raw: float
    usual_ratio: float
    rewritten: float | None

    def __str__(self) -> str:
        times = self.change.raw / max(self.usual_raw, 4096)
        parts = [
            f"{times:.0f} times the usual amount of changes",
            f"compressed to {self.change.ratio:.0%} where {self.usual_ratio:.0%} is usual",
        ]
        if self.rewritten is not None:
            parts.append(f"{self.rewritten:.0%} of it over what was there")
        return ", ".join(parts)


def not_known(_: int) -> float | None:
    """`Rewritten` of who has no indexes at hand."""
    return None


def judge(changes: Sequence[Change], rewritten: Rewritten = not_known) -> dict[int, Suspicion]:
    """The flagged among the points, by number. changes: of all points, oldest first. rewritten: asked of few."""
    flagged: dict[int, Suspicion] = {}
    usual: deque[Change] = deque(maxlen=WINDOW)
    waiting: deque[tuple[int, Change]] = deque()
    for index, change in enumerate(changes):
        while waiting and index - waiting[0][0] >= GROWN_USUAL:
            usual.append(waiting.popleft()[1])
        found = _suspicion(change, usual, rewritten)
        if found is None:
            usual.append(change)
        else:
            flagged[change.seq] = found
            waiting.append((index, change))
    return flagged


def newest_flagged(changes: Sequence[Change]) -> tuple[int, Suspicion] | None:
    """How many points up to the newest are flagged in a row, by records alone, and why the first of them is."""
    flagged = judge(changes)
    count = 0
    for change in reversed(changes):
        if change.seq not in flagged:
            break
        count += 1
    return (count, flagged[changes[-count].seq]) if count else None


def _suspicion(change: Change, usual: Sequence[Change], rewritten: Rewritten) -> Suspicion | None:
    if len(usual) < LEAST_HISTORY or change.raw < LEAST_RAW or change.ratio < RATIO:
        return None
    ratios = [one.ratio for one in usual if one.raw >= _TELLING]
    usual_ratio = median(ratios) if ratios else 0.0
    if change.ratio < usual_ratio + RATIO_ABOVE:
        return None
    amounts = [_magnitude(one.raw) for one in usual]
    middle = median(amounts)
    deviation = max(_SIGMA * median(abs(one - middle) for one in amounts), LEAST_DEVIATION)
    if _magnitude(change.raw) < middle + CHURN_DEVIATIONS * deviation:
        return None
    share = rewritten(change.seq)
    if share is not None and share < REWRITTEN:
        return None
    return Suspicion(change, median(one.raw for one in usual), usual_ratio, share)


def _magnitude(raw: int) -> float:
    return math.log2(raw + 4096)
