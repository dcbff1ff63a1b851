"""Many machines and few workers: who is next, and that nobody waits for ever."""

from __future__ import annotations

import heapq
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.replication.agenda import (
    PATIENCE,
    SLOW,
    Running,
    Turn,
    Wish,
    Work,
    first_due,
    next_up,
    quick_workers,
    turn,
)


def delta(machine: str, due: float = 0.0, frequency: float = 30.0, lasts: float = 0.0) -> Wish:
    return Wish(machine, Work.DELTA, due, frequency, lasts)


def scan(machine: str, due: float = 0.0) -> Wish:
    return Wish(machine, Work.SCAN, due, 30.0)


def names(wishes) -> list[str]:
    return [wish.machine for wish in wishes]


def test_deltas_go_first_and_the_earliest_deadline_of_them():
    wishes = [scan("s"), delta("often", frequency=5), delta("seldom", frequency=900), delta("late", due=-29)]
    assert names(next_up(wishes, [], 8, 0.0)) == ["late", "often", "seldom", "s"]
    assert names(next_up(wishes, [], 2, 0.0)) == ["late", "often"]


def test_a_scan_that_waited_long_goes_before_deltas_that_came_later():
    wishes = [scan("s"), delta("a", due=PATIENCE), delta("b", due=PATIENCE)]
    assert names(next_up(wishes, [], 2, PATIENCE - 1)) == ["s"]
    assert names(next_up(wishes, [], 2, PATIENCE)) == ["s", "a"]


def test_what_is_not_due_or_has_a_worker_is_passed_over():
    wishes = [delta("a", due=1), delta("b"), scan("b")]
    assert next_up(wishes, [Running(scan("b"), 0.0)], 4, 0.5) == []
    assert names(next_up(wishes, [], 4, 0.5)) == ["b"]


@pytest.mark.parametrize(("workers", "kept"), [(1, 0), (2, 1), (4, 1), (8, 2), (32, 8)])
def test_slow_work_leaves_workers_for_the_quick(workers, kept):
    assert quick_workers(workers) == kept
    slow = [delta(f"slow{i:02}", lasts=SLOW) for i in range(40)]
    quick = [delta(f"zquick{i:02}", lasts=SLOW - 0.1) for i in range(40)]
    assert len(next_up(slow, [], workers, 0.0)) == workers - kept
    chosen = next_up(slow + quick, [], workers, 0.0)
    assert len(chosen) == workers
    assert sum(wish.slow for wish in chosen) == workers - kept


def test_work_that_turns_out_slow_counts_as_slow():
    running = [Running(delta(f"r{i}"), 0.0) for i in range(3)]
    assert names(next_up([scan("s")], running, 4, SLOW - 1)) == ["s"]
    assert next_up([scan("s")], running, 4, SLOW) == []
    assert names(next_up([delta("d")], running, 4, SLOW)) == ["d"]


def test_what_hangs_on_a_worker_of_the_quick_is_stood_in_for():
    hangs = [Running(delta(f"r{i}"), 0.0) for i in range(6)]
    wishes = [scan("s"), delta("known", lasts=SLOW), delta("a"), delta("b")]
    assert next_up(wishes, hangs[:4], 4, SLOW - 1) == []
    for count in (4, 5, 6):
        assert names(next_up(wishes, hangs[:count], 4, SLOW)) == ["a"]


def test_what_takes_its_whole_interval_is_slow():
    assert delta("a", frequency=1, lasts=1).slow
    assert not delta("a", frequency=1, lasts=0.9).slow
    assert not delta("a", frequency=900, lasts=SLOW - 0.1).slow
    assert Running(delta("a", frequency=1), 0.0).slow(1.0)


wishes = st.builds(
    Wish,
    st.sampled_from("abcdefgh"),
    st.sampled_from(Work),
    st.floats(0, 1000),
    st.sampled_from([1.0, 5.0, 30.0, 300.0, 900.0]),
    st.sampled_from([0.0, 0.1, 60.0]),
)
runnings = st.builds(Running, wishes, st.floats(0, 500))


@given(
    st.lists(wishes, max_size=20),
    st.lists(runnings, max_size=6, unique_by=lambda one: one.wish.machine),
    st.integers(1, 8),
    st.floats(500, 1000),
)
def test_never_more_than_the_workers_never_a_machine_twice_and_no_worker_idle_without_need(
    asked, running, workers, now
):
    chosen = next_up(asked, running, workers, now)
    stood_in_for = max(0, sum(one.slow(now) for one in running) - (workers - quick_workers(workers)))
    at_work = len(running) - stood_in_for
    assert len(chosen) <= max(0, workers - at_work)
    machines = names(chosen) + [one.wish.machine for one in running]
    assert len(set(machines)) == len(machines)
    assert all(wish.due <= now for wish in chosen)
    if len(chosen) + at_work < workers:
        left = [one for one in asked if one.due <= now and one.machine not in machines]
        assert all(wish.slow for wish in left), "only slow work may wait while a worker is free"
    for first, second in itertools.pairwise(chosen):
        if second.work is Work.DELTA and first.work is Work.SCAN:
            assert first.deadline <= now


class Host:
    """A simulated agent: machines with frequencies and durations; time jumps from event to event."""

    def __init__(
        self, machines: dict[str, tuple[float, float]], scans: dict[str, float], workers: int
    ) -> None:
        self.machines, self.scans, self.workers = machines, scans, workers
        self.due = {name: first_due(name, frequency, 0.0) for name, (frequency, _) in machines.items()}
        self.scan_due = dict.fromkeys(scans, 0.0)
        self.running: dict[str, tuple[Running, float]] = {}
        self.made, self.missed, self.longest = Counter(), Counter(), Counter()
        self.pieces, self.longest_scan = Counter(), Counter()

    def run(self, seconds: float) -> None:
        now, ends = 0.0, []
        while now < seconds:
            asked = [
                delta(name, self.due[name], frequency, lasts)
                for name, (frequency, lasts) in self.machines.items()
                if name not in self.scans
            ] + [scan(name, due) for name, due in self.scan_due.items()]
            for wish in next_up(asked, [one for one, _ in self.running.values()], self.workers, now):
                self._begin(wish, now)
                heapq.heappush(ends, (self.running[wish.machine][1], wish.machine))
            later = [one.due for one in asked if one.machine not in self.running and one.due > now]
            now = min([ends[0][0]] if ends else [], default=min(later, default=seconds))
            now = min([now, *later])
            while ends and ends[0][0] <= now:
                _, name = heapq.heappop(ends)
                ended, _ = self.running.pop(name)
                if ended.wish.work is Work.SCAN:
                    self.scan_due[name] = now
            if not ends and not later:
                # All wishes are due and none may run: that would be a standstill.
                assert next_up(asked, [one for one, _ in self.running.values()], self.workers, now)

    def _begin(self, wish: Wish, now: float) -> None:
        frequency, lasts = self.machines[wish.machine]
        if wish.work is Work.DELTA:
            missed, self.due[wish.machine] = turn(wish.due, frequency, now)
            self.made[wish.machine] += 1
            self.missed[wish.machine] += missed
            self.longest[wish.machine] = max(self.longest[wish.machine], now - wish.due)
        else:
            lasts = self.scans[wish.machine]
            self.pieces[wish.machine] += 1
            self.longest_scan[wish.machine] = max(self.longest_scan[wish.machine], now - wish.due)
        self.running[wish.machine] = (Running(wish, now), now + lasts)


def test_a_hundred_machines_four_workers_slow_ones_and_a_scan():
    machines = {f"vm{i:02}": (30.0, 0.2) for i in range(90)}
    machines |= {f"slow{i}": (30.0, 120.0) for i in range(8)}
    machines |= {f"scan{i}": (30.0, 0.2) for i in range(2)}
    host = Host(machines, {"scan0": 20.0, "scan1": 20.0}, workers=4)
    host.run(3600)
    quick = [name for name in machines if name.startswith("vm")]
    assert sum(host.missed[name] for name in quick) == 0
    assert max(host.longest[name] for name in quick) < 15
    # The slow ones share what is left among themselves and with the scans; none of them is forgotten.
    made = [host.made[name] for name in machines if name.startswith("slow")]
    assert max(made) - min(made) <= 2
    assert min(made) >= 5
    assert min(host.pieces.values()) >= 5


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 99).map("m{}".format),
        st.tuples(st.sampled_from([5.0, 30.0, 300.0]), st.sampled_from([0.05, 1.0, 20.0, 90.0])),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 3),
    st.integers(2, 6),
)
def test_nobody_starves(machines, scanning, workers):
    scans = dict.fromkeys(sorted(machines)[:scanning], 10.0)
    host = Host(machines, scans, workers)
    host.run(3600)
    # A machine's deadline is fixed while it waits: only those with an earlier one go before it, once each.
    worst = sum(max(lasts, scans.get(name, 0.0)) for name, (_, lasts) in machines.items())
    for name, (frequency, _) in machines.items():
        if name in scans:
            assert host.pieces[name] > 0
            assert host.longest_scan[name] <= PATIENCE + 900 + worst
        else:
            assert host.made[name] > 0
            assert host.longest[name] <= frequency + PATIENCE + worst


@pytest.mark.parametrize(
    ("began", "wanted"),
    [
        (100, Turn(0, 130)),
        (129.9, Turn(0, 130)),
        (130, Turn(1, 160)),
        (191, Turn(3, 220)),
        (99, Turn(0, 130)),
    ],
)
def test_cycles_are_missed_by_whole_intervals_and_the_grid_stays(began, wanted):
    assert turn(100, 30, began) == wanted


@given(st.text(max_size=20), st.sampled_from([1.0, 30.0, 900.0]), st.floats(0, 1e6))
def test_the_first_cycle_is_due_within_one_interval_at_the_machines_own_place(machine, frequency, now):
    due = first_due(machine, frequency, now)
    assert now <= due <= now + frequency
    again = first_due(machine, frequency, now + 10 * frequency)
    apart = (again - due) % frequency
    assert min(apart, frequency - apart) < 1e-6


def test_machines_are_spread_over_the_interval():
    seconds = Counter(int(first_due(f"machine-{i}", 30.0, 0.0)) for i in range(100))
    assert max(seconds.values()) <= 12
    assert len(seconds) >= 24
