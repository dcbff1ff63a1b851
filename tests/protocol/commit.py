"""Model of attach (T1-T5), commit (W1-W4), the floor's advance (M3, M4) and the sweep of logs (S1).

Two writers and one maintenance worker, each of which may stall or die between any two store operations
and, as a new process, begin again. Design section 4 states the rules; `without` leaves some out, to show that
each is needed. What is modelled beyond plain commits:

- an answer lost after the store did the work (T2's swap, T4's and W2's put), and the retry;
- adoption at T4: a late commit of the older writer takes the sequence number first;
- records of kind `scan`: not a recovery point, but later points build on their logs;
- epochs issued by a vault, or without one as the stored epoch + 1;
- a put that lands below the floor or inside a merged range, where the record with its number was deleted.

Not in `Rule` are T2's condition, T5, the nonce at W2 and the floor at W3: left out one at a time, none gave a
violation (3 epochs, 5 numbers, 1 maintenance run, no scans), as other rules make up for each. They stay in
the protocol as a second lock.

W4 (forgetting the log at the source) follows every acknowledgement, so an acknowledged commit must be there.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Set
from typing import Final, Literal, NamedTuple

from tests.protocol.explore import Outcome, Step, explore

Kind = Literal["fence", "point", "scan"]
Rule = Literal["T3", "T4", "W3 epoch", "M3 point", "S1 epoch", "S1 tail", "S1 scan"]

Log = tuple[int, int]
"""Who wrote it (claim) and its number: stands for a ULID, so no two writers ever share one."""


class Bounds(NamedTuple):
    epochs: int = 3
    sequence: int = 5
    commits: int = 2  # of one writer, all its lives together
    maintenance: int = 2  # runs
    vault: bool = True
    scans: bool = True


class Record(NamedTuple):
    epoch: int
    kind: Kind
    log: Log | None


class Head(NamedTuple):
    """replica.json. owner: the claim that holds it. version: grows with every swap. ranges: as `Merged`."""

    epoch: int
    owner: int
    floor: int
    version: int
    ranges: tuple[tuple[int, int], ...] = ()

    def hides(self, sequence: int) -> bool:
        """Whether the record lies inside a merged range (first, last)."""
        return any(first < sequence < last for first, last in self.ranges)


class Writer(NamedTuple):
    """at: the next operation. claim: its nonce. tail: newest record it knows. seen: head version it read.
    log: number of its newest log. commits: how many it began."""

    at: str
    epoch: int = 0
    claim: int = 0
    tail: int = 0
    seen: int = 0
    log: int = 0
    kind: Kind = "fence"
    commits: int = 0


class Maintenance(NamedTuple):
    """plan: the head as read; dead: logs to sweep."""

    at: str = "idle"
    runs: int = 0
    plan: Head | None = None
    dead: frozenset[Log] = frozenset()


class Acknowledged(NamedTuple):
    sequence: int
    epoch: int
    log: Log
    kind: Kind


class State(NamedTuple):
    """records: by sequence number from 1 on, None where there is none. claims: how many were made so far.
    attached: the newest epoch that passed T5."""

    head: Head
    records: tuple[Record | None, ...]
    logs: frozenset[Log]
    claims: int
    writers: tuple[Writer, Writer]
    maintenance: Maintenance
    acknowledged: frozenset[Acknowledged]
    attached: int


IDLE: Final = Writer("T1")


class CommitModel:
    def __init__(self, bounds: Bounds, without: Set[Rule] = frozenset()) -> None:
        self._bounds = bounds
        self._without = without
        self._rules = {
            "T1": self._t1_issue_epoch,
            "T2 read": self._t2_read_head,
            "T2 swap": self._t2_swap_head,
            "T3": self._t3_list_points,
            "T4": self._t4_put_fence,
            "T5": self._t5_read_again,
            "W1": self._w1_put_log,
            "W2": self._w2_put_record,
            "W3": self._w3_confirm,
        }

    def run(self) -> Outcome:
        return explore(self.initial(), self.steps, self.broken)

    def initial(self) -> State:
        nothing = (None,) * (self._bounds.sequence - 1)
        return State(
            head=Head(epoch=0, owner=0, floor=1, version=0),
            records=(Record(0, "point", None), *nothing),  # an older writer's
            logs=frozenset(),
            claims=0,
            writers=(IDLE, IDLE),
            maintenance=Maintenance(),
            acknowledged=frozenset(),
            attached=0,
        )

    def steps(self, state: State) -> Iterator[Step[State]]:
        for index, writer in enumerate(state.writers):
            if index and writer == state.writers[0]:
                continue  # what the twin can do leads to the same states
            other = state.writers[1 - index]
            for name, after, changed, wrong in self._rules[writer.at](state, writer):
                # Writers are alike, so their order carries nothing: sorted, half the states remain.
                pair = (after, other) if after <= other else (other, after)
                yield Step(name, changed._replace(writers=pair), wrong)
            if writer.at != "T1":
                dead = _again(writer)
                pair = (dead, other) if dead <= other else (other, dead)
                yield Step("death", state._replace(writers=pair))
        yield from self._maintenance(state)

    # -- attach

    def _t1_issue_epoch(self, state: State, writer: Writer) -> Iterator[_Move]:
        """The vault issues each epoch once. Without it the epoch follows from the head, at T2."""
        if state.claims < self._bounds.epochs:
            claim = state.claims + 1
            epoch = claim if self._bounds.vault else 0
            yield _Move(
                "T1", writer._replace(at="T2 read", epoch=epoch, claim=claim), state._replace(claims=claim)
            )

    def _t2_read_head(self, state: State, writer: Writer) -> Iterator[_Move]:
        head = state.head
        if head.owner == writer.claim:  # an earlier swap of ours was done, though its answer was lost
            yield _Move("T2 ours", writer._replace(at="T3", epoch=head.epoch, seen=0), state)
        elif not self._bounds.vault:
            # Bounded here, since two that fight for the replica may take it from one another for ever.
            if (epoch := head.epoch + 1) > self._bounds.epochs:
                return
            yield _Move("T2 read", writer._replace(at="T2 swap", epoch=epoch, seen=head.version), state)
        elif head.epoch < writer.epoch:
            yield _Move("T2 read", writer._replace(at="T2 swap", seen=head.version), state)
        else:
            yield _Move("T2 fenced", _again(writer), state)

    def _t2_swap_head(self, state: State, writer: Writer) -> Iterator[_Move]:
        head = state.head
        if head.version == writer.seen:
            claimed = state._replace(
                head=head._replace(epoch=writer.epoch, owner=writer.claim, version=head.version + 1)
            )
            yield _Move("T2 swap", writer._replace(at="T3", seen=0), claimed)
            yield _Move("T2 swap, answer lost", writer._replace(at="T2 read", seen=0), claimed)
        else:
            yield _Move("T2 conflict", writer._replace(at="T2 read", seen=0), state)

    def _t3_list_points(self, state: State, writer: Writer) -> Iterator[_Move]:
        tail = tail_of(state)
        newest = state.records[tail - 1]
        if newest is not None and newest.epoch > writer.epoch and "T3" not in self._without:
            yield _Move("T3 fenced", _again(writer), state)
        else:
            yield _Move("T3", writer._replace(at="T5" if "T4" in self._without else "T4", tail=tail), state)

    def _t4_put_fence(self, state: State, writer: Writer) -> Iterator[_Move]:
        sequence = writer.tail + 1
        if sequence > self._bounds.sequence:
            return
        there, fence = state.records[sequence - 1], Record(writer.epoch, "fence", None)
        if there is None:
            written = _written(state, sequence, fence)
            yield _Move("T4", writer._replace(at="T5", tail=sequence), written)
            yield _Move("T4, answer lost", writer, written)
        elif there == fence:
            yield _Move("T4 ours", writer._replace(at="T5", tail=sequence), state)
        elif there.epoch < writer.epoch:
            yield _Move("T4 adopt", writer._replace(tail=sequence), state)
        else:
            yield _Move("T4 fenced", _again(writer), state)

    def _t5_read_again(self, state: State, writer: Writer) -> Iterator[_Move]:
        if state.head.epoch == writer.epoch:
            attached = state._replace(attached=max(state.attached, writer.epoch))
            yield _Move("T5", writer._replace(at="W1"), attached)
        else:
            yield _Move("T5 fenced", _again(writer), state)

    # -- commit

    def _w1_put_log(self, state: State, writer: Writer) -> Iterator[_Move]:
        if writer.commits >= self._bounds.commits or writer.tail >= self._bounds.sequence:
            return
        number = writer.log + 1
        uploaded = state._replace(logs=state.logs | {(writer.claim, number)})
        # A scan commits its progress first and is closed by a point.
        kinds: tuple[Kind, ...] = ("point", "scan") if self._bounds.scans and number == 1 else ("point",)
        for kind in kinds:
            yield _Move(
                f"W1 {kind}",
                writer._replace(at="W2", log=number, kind=kind, commits=writer.commits + 1),
                uploaded,
            )

    def _w2_put_record(self, state: State, writer: Writer) -> Iterator[_Move]:
        sequence, log = writer.tail + 1, (writer.claim, writer.log)
        there = state.records[sequence - 1]
        if there is None:
            written = _written(state, sequence, Record(writer.epoch, writer.kind, log))
            yield _Move("W2", writer._replace(at="W3"), written)
            yield _Move("W2, answer lost", writer, written)
        elif there.log == log:
            yield _Move("W2 won before", writer._replace(at="W3"), state)
        elif "T4" in self._without and there.epoch < writer.epoch:
            if sequence < self._bounds.sequence:
                yield _Move("W2 step over", writer._replace(tail=sequence), state)
        else:
            yield _Move("W2 fenced", _again(writer), state)

    def _w3_confirm(self, state: State, writer: Writer) -> Iterator[_Move]:
        head, sequence, log = state.head, writer.tail + 1, (writer.claim, writer.log)
        owned = head.epoch == writer.epoch or "W3 epoch" in self._without
        above = head.floor <= sequence and not head.hides(sequence)
        if not (owned and above):
            yield _Move("W3 fenced", _again(writer), state)
            return
        wrong = None
        if any(old.sequence == sequence for old in state.acknowledged):
            wrong = f"point {sequence} was acknowledged to two writers"
        elif writer.epoch < state.attached:
            wrong = (
                f"epoch {writer.epoch} committed point {sequence} after epoch {state.attached} had attached"
            )
        elif sequence < head.floor or head.hides(sequence):
            wrong = f"point {sequence} was acknowledged where records are merged away"
        ours = Acknowledged(sequence, writer.epoch, log, writer.kind)
        yield _Move(
            "W3",
            writer._replace(at="W1", tail=sequence, kind="fence"),
            state._replace(acknowledged=state.acknowledged | {ours}),
            wrong,
        )

    # -- maintenance

    def _maintenance(self, state: State) -> Iterator[Step[State]]:
        worker, head = state.maintenance, state.head

        def step(rule: str, to: Maintenance, changed: State = state) -> Step[State]:
            return Step(rule, changed._replace(maintenance=to))

        idle = Maintenance(runs=worker.runs)
        if worker.at == "idle" and worker.runs < self._bounds.maintenance:
            yield step("M1", Maintenance("M3", worker.runs + 1, plan=head))
            newest = state.records[tail_of(state) - 1]
            if "S1 tail" in self._without or (newest is not None and newest.epoch == head.epoch):
                yield step("S1 plan", Maintenance("S1", worker.runs + 1, dead=self._dead_logs(state)))
        elif worker.at == "M3":
            plan = worker.plan
            # A writer may have taken over meanwhile: of its records nothing is touched.
            if plan is not None and (head.floor, head.ranges) == (plan.floor, plan.ranges):
                for moved in self._merges(state):
                    yield step("M3", Maintenance("M4", worker.runs), state._replace(head=moved))
            yield step("M3 conflict or none", idle)
        elif worker.at == "M4":
            low = next(
                (
                    s
                    for s, record in enumerate(state.records, 1)
                    if record is not None and (s < head.floor or head.hides(s))
                ),
                None,
            )
            if low is None:
                yield step("M4 done", idle)
            else:
                record = state.records[low - 1]
                gone = _written(state, low, None)
                logs = state.logs - {record.log} if record is not None and record.log else state.logs
                yield step("M4", worker, gone._replace(logs=logs))
        elif worker.at == "S1":
            if worker.dead:
                log = min(worker.dead)
                left = worker._replace(dead=worker.dead - {log})
                yield step("S1", left, state._replace(logs=state.logs - {log}))
            else:
                yield step("S1 done", idle)

    def _merges(self, state: State) -> Iterator[Head]:
        """The heads that a merge may swap in: a higher floor, or a range between two points that are left."""
        head = state.head
        may_end = [
            sequence
            for sequence in range(head.floor, tail_of(state) + 1)
            if (record := state.records[sequence - 1]) is not None
            and not head.hides(sequence)
            and ("M3 point" in self._without or record.kind == "point")
        ]
        for floor in may_end:
            if floor > head.floor:
                left = tuple(one for one in head.ranges if one[0] >= floor)
                yield head._replace(floor=floor, version=head.version + 1, ranges=left)
        for first, last in itertools.combinations(may_end, 2):
            if last > first + 1 and (first, last) not in head.ranges:
                left = tuple(one for one in head.ranges if not (first <= one[0] and one[1] <= last))
                ranges = tuple(sorted((*left, (first, last))))
                yield head._replace(version=head.version + 1, ranges=ranges)

    def _dead_logs(self, state: State) -> frozenset[Log]:
        """S1: what no record above the floor references, of older epochs than the head's."""
        live = {
            record.log
            for sequence, record in enumerate(state.records, 1)
            if sequence >= state.head.floor
            and not state.head.hides(sequence)
            and record is not None
            and not (record.kind == "scan" and "S1 scan" in self._without)
        }
        every = "S1 epoch" in self._without
        return frozenset(
            log for log in state.logs if log not in live and (every or log[0] != state.head.owner)
        )

    # -- invariants

    def broken(self, state: State) -> str | None:
        floor, tail = state.head.floor, tail_of(state)
        chain = state.records[floor - 1 : tail]
        if not chain:
            return f"nothing is at the floor {floor}"
        if any(record is not None for record in state.records[tail:]):
            return f"the chain above the floor {floor} has a gap behind {tail}"
        epoch = 0
        newest = 0
        for sequence, record in enumerate(chain, floor):
            if state.head.hides(sequence):
                continue
            assert record is not None
            if record.log is not None and record.log not in state.logs:
                return f"record {sequence} references a log that is gone"
            if record.epoch < epoch:
                return f"the epochs go back along the chain at {sequence}"
            epoch = record.epoch
            if record.kind == "point":
                newest = sequence
        for done in state.acknowledged:
            if done.sequence >= floor and not state.head.hides(done.sequence):
                there = state.records[done.sequence - 1]
                if there != Record(done.epoch, done.kind, done.log):
                    return f"acknowledged {done.kind} {done.sequence} is not in the chain"
            elif done.kind == "point" and not newest:
                return f"acknowledged point {done.sequence} went, and no newer point is there"
        return None


class _Move(NamedTuple):
    rule: str
    writer: Writer
    state: State
    wrong: str | None = None


def tail_of(state: State) -> int:
    """T3, R3: the last sequence number of the gapless run from the floor on."""
    sequence = state.head.floor
    while sequence <= len(state.records) and (
        state.records[sequence - 1] is not None or state.head.hides(sequence)
    ):
        sequence += 1
    return sequence - 1


def _again(writer: Writer) -> Writer:
    """Dead or fenced: whatever comes next is a new process with a new claim."""
    return IDLE._replace(commits=writer.commits)


def _written(state: State, sequence: int, record: Record | None) -> State:
    records = state.records
    return state._replace(records=(*records[: sequence - 1], record, *records[sequence:]))
