"""The Runner with a hundred engines, some of which hang. The engines are stand-ins and the clock is the test's."""

from __future__ import annotations

import threading
import time

import pytest

from standby.replication.agenda import SLOW, first_due, quick_workers, turn
from standby.replication.decide import View
from standby.replication.runner import CAPTURES, Runner
from standby.replication.states import State
from tests.replication.rig import SettableClock

FREQUENCY = 30
WAIT = 20.0
"""Seconds of real time in which what is due surely ran."""


class StubEngine:
    """Not an engine: has cycles that are due, and makes them at once or hangs in each until it is let go."""

    frequency = FREQUENCY

    def __init__(self, name: str, clock: SettableClock, let_go: threading.Event | None = None) -> None:
        self.id = name
        self._clock = clock
        self._let_go = let_go
        self.cycle_due_at = first_due(name, FREQUENCY, clock.monotonic())
        self.made = 0
        self.missed = 0
        self.hangs_since: float | None = None

    def view(self) -> View:
        return View(
            state=State.PROTECTED,
            tracked=True,
            attached=True,
            unknown=False,
            unlearned=False,
            scanning=False,
            resync_open=False,
            full=False,
            crowded=False,
            closing=False,
            queued=0,
            queued_scans=0,
            capture_due=True,
            cycle_due=self.is_due,
            ship_due=True,
        )

    @property
    def is_due(self) -> bool:
        return self._clock.monotonic() >= self.cycle_due_at

    def next_look(self) -> float:
        return self.cycle_due_at

    def source_step(self) -> None:
        if self._let_go:
            self.hangs_since = self._clock.monotonic()
            self._let_go.wait()
        missed, self.cycle_due_at = turn(self.cycle_due_at, FREQUENCY, self._clock.monotonic())
        self.missed += missed
        self.made += 1

    def hurry(self, on: bool = True) -> None:
        pass


def has_free_worker(slow: list[StubEngine], now: float) -> bool:
    """Time must go on for one: what hangs is known as slow, and stood in for, only after SLOW seconds."""
    since = [one.hangs_since for one in slow if one.hangs_since is not None]
    known = sum(now - one >= SLOW for one in since)
    return CAPTURES - len(since) + max(0, known - (CAPTURES - quick_workers(CAPTURES))) > 0


@pytest.mark.parametrize("hanging", [1, 8])
def test_no_cycle_is_starved_by_machines_that_hang(hanging):
    clock, stop, let_go = SettableClock(), threading.Event(), threading.Event()
    slow = [StubEngine(f"slow{number}", clock, let_go) for number in range(hanging)]
    quick = [StubEngine(f"quick{number}", clock) for number in range(100 - hanging)]
    ended: list[Exception] = []
    runner = Runner(clock, lambda _engine, error: ended.append(error))
    for engine in slow + quick:
        runner.add(engine)
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()
    try:
        deadline = time.monotonic() + WAIT
        for _ in range(3 * FREQUENCY):
            clock.advance(seconds=1)
            runner.touch(quick[0].id)
            while any(one.is_due for one in quick) and has_free_worker(slow, clock.monotonic()):
                assert time.monotonic() < deadline
                time.sleep(0.001)
    finally:
        let_go.set()
        stop.set()
        thread.join()
    assert ended == []
    assert sum(one.missed for one in quick) == 0
    assert all(one.made >= 2 for one in quick)
