"""Model of opening (R1-R5) against merging (M1-M4) and the sweep of orphaned layers (S2).

Four committed points with a log each, two maintenance workers (one may be a zombie), one reader. Each step is
one store operation, and a worker may stall or die between any two. docs/protocol.md states the rules;
`without` leaves some out, to show that each is needed.

A merge folds any range between two points that are still there, layers that earlier merges made among it; the
records inside the range go. A range from 0 on is the floor's advance.

A store may tell versions by content (a hash, as the directory store and S3 do). A head written back unchanged
then has its old version, and a swap that stalled before still succeeds. Hence the rule `generation`: every
swap changes the head. The model compares generations, which are equal exactly when the contents are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Set
from typing import Final, Literal, NamedTuple

from tests.protocol.explore import Outcome, Step, explore

Rule = Literal["R2", "M3", "M4", "S2", "S2 holds", "generation"]


class Bounds(NamedTuple):
    points: int = 4
    runs: int = 2  # of each worker
    opens: int = 2


class Layer(NamedTuple):
    """Replaces the logs of points first+1..last. since: the generation that brought it into the head."""

    first: int
    last: int
    output: str
    since: int


class Hold(NamedTuple):
    point: int
    since: int


class Head(NamedTuple):
    generation: int
    layers: tuple[Layer, ...] = ()
    holds: tuple[Hold, ...] = ()
    sweeps: int = 0


class Worker(NamedTuple):
    """seen: of the head it planned from, the generation (to sweep) or the count of sweeps (to merge).
    output: the layer it wrote, covering first+1..last. layers: of the head that the merge was planned from.
    drop: objects to delete, logs and layers; records: those of merged points, which go last."""

    at: str = "M1"
    runs: int = 0
    seen: int = 0
    first: int = 0
    last: int = 0
    output: str = ""
    layers: tuple[Layer, ...] = ()
    drop: frozenset[str] = frozenset()
    records: frozenset[int] = frozenset()


class Reader(NamedTuple):
    at: str = "R1"
    opens: int = 0
    point: int = 0
    seen: int = 0
    layers: tuple[Layer, ...] = ()
    left: tuple[str, ...] = ()


class State(NamedTuple):
    """made: how many layers were ever written; names are counted, so that none is used twice."""

    head: Head
    made: int
    records: frozenset[int]
    objects: frozenset[str]
    workers: tuple[Worker, Worker]
    reader: Reader


class CompactModel:
    def __init__(self, bounds: Bounds, without: Set[Rule] = frozenset()) -> None:
        self._bounds = bounds
        self._without = without
        self._points: Final = range(1, bounds.points + 1)

    def run(self) -> Outcome:
        return explore(self.initial(), self.steps, self.broken)

    def initial(self) -> State:
        return State(
            Head(0),
            0,
            frozenset(self._points),
            frozenset(log_of(point) for point in self._points),
            (Worker(), Worker()),
            Reader(),
        )

    def steps(self, state: State) -> Iterator[Step[State]]:
        for index, worker in enumerate(state.workers):
            if index and worker == state.workers[0]:
                continue  # what the twin can do leads to the same states
            other = state.workers[1 - index]
            for rule, after, changed in self._work(state, worker):
                # Workers are alike, so their order carries nothing: put in one order, half the states remain.
                pair = (after, other) if _order(after) <= _order(other) else (other, after)
                yield Step(rule, changed._replace(workers=pair))
        yield from self._read(state)

    # -- merge and sweep

    def _work(self, state: State, worker: Worker) -> Iterator[_Move]:
        head = state.head
        idle = Worker(runs=worker.runs)
        if worker.at == "M1":
            if worker.runs < self._bounds.runs:
                yield from self._plan(state, idle._replace(runs=worker.runs + 1))
            return
        yield _Move("death", idle, state)
        if worker.at == "M2":
            if _held(head, worker):
                yield _Move("M2 held", idle, state)
            else:
                output = f"m{state.made + 1}"
                uploaded = state._replace(made=state.made + 1, objects=state.objects | {output})
                yield _Move("M2", worker._replace(at="M3", output=output), uploaded)
        elif worker.at == "M3":
            # Planning anew from this head gives the same; and no sweep began that might take the output.
            same = head.layers == worker.layers
            unswept = head.sweeps == worker.seen or "M3" in self._without
            if same and unswept and not _held(head, worker):
                layer = Layer(worker.first, worker.last, worker.output, head.generation + 1)
                left = tuple(one for one in head.layers if not _covers(worker, one))
                merged = head._replace(generation=head.generation + 1, layers=tuple(sorted((*left, layer))))
                yield _Move("M3", idle, state._replace(head=merged))
            else:
                yield _Move("M3 conflict", idle, state)
        elif worker.at == "S2":
            if head.generation == worker.seen:
                step = 0 if "generation" in self._without else 1
                swapped = state._replace(
                    head=head._replace(generation=head.generation + step, sweeps=head.sweeps + step)
                )
                yield _Move("S2", worker._replace(at="delete", seen=0), swapped)
            else:
                yield _Move("S2 conflict", idle, state)
        elif worker.drop:
            name = min(worker.drop)
            left = worker._replace(drop=worker.drop - {name})
            yield _Move("delete", left, state._replace(objects=state.objects - {name}))
        elif worker.records:
            point = min(worker.records)
            rest = worker._replace(records=worker.records - {point})
            yield _Move("delete record", rest, state._replace(records=state.records - {point}))
        else:
            yield _Move("done", idle, state)

    def _plan(self, state: State, worker: Worker) -> Iterator[_Move]:
        """M1: from one reading of the head a run merges, deletes what was replaced, or sweeps orphans."""
        head = state.head
        there = [p for p in (0, *self._points) if not any(one.first < p < one.last for one in head.layers)]
        planned = worker._replace(at="M2", seen=head.sweeps, layers=head.layers)
        for first, last in itertools.combinations(there, 2):
            if any(first < point < last for point in there):
                yield _Move("M1", planned._replace(first=first, last=last), state)
        replaced = [
            layer
            for layer in head.layers
            if "M4" in self._without or all(hold.since > layer.since for hold in head.holds)
        ]
        if replaced:
            logs = {log_of(p) for layer in replaced for p in range(layer.first + 1, layer.last + 1)}
            inner = {p for layer in replaced for p in range(layer.first + 1, layer.last)}
            yield _Move(
                "M4", worker._replace(at="delete", drop=frozenset(logs), records=frozenset(inner)), state
            )
        known = {layer.output for layer in head.layers}
        orphans = frozenset(name for name in state.objects if name[0] == "m" and name not in known)
        if orphans and "S2" in self._without:
            yield _Move("S2 left out", worker._replace(at="delete", drop=orphans), state)
        elif orphans and (
            "S2 holds" in self._without
            or all(hold.since > layer.since for hold in head.holds for layer in head.layers)
        ):
            yield _Move("S2 plan", worker._replace(at="S2", seen=head.generation, drop=orphans), state)

    # -- open

    def _read(self, state: State) -> Iterator[Step[State]]:
        head, reader = state.head, state.reader
        idle = Reader(opens=reader.opens)
        if reader.at == "R1":
            if reader.opens < self._bounds.opens:
                for point in (2, self._bounds.points):
                    if not any(layer.first < point < layer.last for layer in head.layers):
                        chosen = Reader("R2", reader.opens + 1, point, head.generation)
                        yield Step("R1", state._replace(reader=chosen))
        elif reader.at == "R2":
            if "R2" in self._without:
                yield Step("R2 left out", state._replace(reader=_planning(reader, head)))
            elif head.generation == reader.seen:
                hold = Hold(reader.point, head.generation + 1)
                held = head._replace(generation=head.generation + 1, holds=(*head.holds, hold))
                yield Step("R2", state._replace(head=held, reader=_planning(reader, held)))
            else:
                yield Step("R2 conflict", state._replace(reader=idle))
        elif reader.at == "R3":
            need = needed(state.records, reader.layers, reader.point)
            if need is None:
                yield Step("R4", state, f"point {reader.point} cannot be opened under its hold")
            else:
                reading = Reader("R5", reader.opens, reader.point, left=need)
                yield Step("R4", state._replace(reader=reading))
        elif reader.left:
            name, *rest = reader.left
            wrong = None if name in state.objects else f"{name} is gone under the hold of its reader"
            yield Step("R5", state._replace(reader=reader._replace(left=tuple(rest))), wrong)
        else:
            released = head._replace(generation=head.generation + 1, holds=())
            yield Step("release", state._replace(head=released, reader=idle))

    # -- invariants

    def broken(self, state: State) -> str | None:
        for layer in state.head.layers:
            if layer.output not in state.objects:
                return f"layer {layer.output} is referenced but gone"
        need = needed(state.records, state.head.layers, self._bounds.points)
        if need is None or not state.objects.issuperset(need):
            return "the newest point cannot be opened"
        return None


class _Move(NamedTuple):
    rule: str
    worker: Worker
    state: State


def log_of(point: int) -> str:
    return f"p{point}"


def needed(records: Set[int], layers: tuple[Layer, ...], point: int) -> tuple[str, ...] | None:
    """R4: the objects that open `point`, the longest fitting layers first. None: it cannot be opened."""
    need: list[str] = []
    at = 0
    while at < point:
        fitting = [layer for layer in layers if layer.first == at and layer.last <= point]
        if fitting:
            best = max(fitting, key=lambda layer: layer.last)
            need.append(best.output)
            at = best.last
        elif at + 1 in records:
            at += 1
            need.append(log_of(at))
        else:
            return None
    return tuple(need)


def _planning(reader: Reader, head: Head) -> Reader:
    return Reader("R3", reader.opens, reader.point, layers=head.layers)


def _order(worker: Worker) -> tuple[object, ...]:
    """A total order of workers; sets have none of their own."""
    return (*worker[:7], sorted(worker.drop), sorted(worker.records))


def _covers(worker: Worker, layer: Layer) -> bool:
    return worker.first <= layer.first and layer.last <= worker.last


def _held(head: Head, worker: Worker) -> bool:
    return any(worker.first < hold.point < worker.last for hold in head.holds)
