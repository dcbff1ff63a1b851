"""What an agent with many machines does next: fair, and deltas before scans. Pure.

Every wish has a deadline: a cycle's is when the next one would be due (then it counts as missed), a scan's
piece is due a while after it was wished for. The earliest deadline goes first, so nothing waits for ever; but
a scan goes before cycles only once its own deadline is over. Work that is known to be slow never takes the
last workers: a machine whose cycles take minutes cannot hold up those whose cycles take a tenth of a second.

One agenda for each kind of worker (capturing, sending); a machine has at most one piece of work in each.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Final, NamedTuple

PATIENCE: Final = 300.0
"""Seconds after which a waiting scan goes before deltas that come later. Long beside the frequencies of most
machines, short beside a scan of a large disk."""

SLOW: Final = 5.0
"""Seconds of work from which on it is slow, however seldom it comes."""


class Work(StrEnum):
    DELTA = "delta"
    SCAN = "scan"


class Wish(NamedTuple):
    """A machine wants a worker. due: since when (monotonic seconds). frequency: of its policy, in seconds.
    lasts: seconds that this work took of late (the median, say); 0 if that is not known."""

    machine: str
    work: Work
    due: float
    frequency: float
    lasts: float = 0.0

    @property
    def deadline(self) -> float:
        return self.due + (self.frequency if self.work is Work.DELTA else PATIENCE)

    @property
    def slow(self) -> bool:
        """A scan's piece always is (its size is set by what is worth a commit), and so is what wants a worker
        for all of its time."""
        return self.work is Work.SCAN or self.lasts >= min(SLOW, self.frequency)


class Running(NamedTuple):
    """A wish that has had a worker since `began` (monotonic seconds)."""

    wish: Wish
    began: float

    def slow(self, now: float) -> bool:
        """Also what turned out slow: a cycle that hangs counts before it ever ended."""
        return self.wish.slow or now - self.began >= min(SLOW, self.wish.frequency)


def quick_workers(workers: int) -> int:
    """Workers that slow work never takes: a quarter, and at least one where there are two or more."""
    return 0 if workers < 2 else max(1, workers // 4)


def next_up(wishes: Iterable[Wish], running: Collection[Running], workers: int, now: float) -> list[Wish]:
    """Which wishes get the free workers now, in this order. Wishes that are not due are passed over, and so
    are those of machines that have a worker. What turned out slow on a worker of the quick does not count as one:
    a machine has one piece of work at most, so the workers stay fewer than the machines."""
    busy = {one.wish.machine for one in running}
    slow_free = workers - quick_workers(workers) - sum(one.slow(now) for one in running)
    # Where many machines begin to hang at once, as when their storage does, one more worker each stands in.
    free = workers - len(running) + max(0, -slow_free)
    chosen: list[Wish] = []
    for wish in sorted((one for one in wishes if one.due <= now), key=lambda one: _rank(one, now)):
        if len(chosen) >= free:
            break
        if wish.machine in busy or (wish.slow and slow_free <= 0):
            continue
        chosen.append(wish)
        busy.add(wish.machine)
        slow_free -= wish.slow
    return chosen


def _rank(wish: Wish, now: float) -> tuple[bool, float, str]:
    patient = wish.work is Work.SCAN and wish.deadline > now
    return patient, wish.deadline, wish.machine


class Turn(NamedTuple):
    """missed: cycles that were due before this one and were not made. next_due: when the next one is due."""

    missed: int
    next_due: float


def turn(due: float, frequency: float, began: float) -> Turn:
    """What follows from a cycle that was due at `due` and begins at `began`.

    Due times stay on the machine's grid, so a late cycle moves none of the later ones. One that begins before
    the next is due is late, and nothing is missed.
    """
    missed = max(0, int((began - due) // frequency))
    return Turn(missed, due + (missed + 1) * frequency)


def first_due(machine: str, frequency: float, now: float) -> float:
    """When a machine's first cycle is due: within one frequency from `now`, and for each machine at a place of
    its own, the same at every start, so that a hundred machines are not cut in one second."""
    place = zlib.crc32(machine.encode()) / 2**32 * frequency
    return now + (place - now) % frequency
