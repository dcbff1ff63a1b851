"""Test failover: a point's machine started in isolation from the replica, beside the machine it copies.

Every test has a run directory with all that it owns on this host; any process can look at it, mend it, go on
with it or clean it up from there. The machine is named `<name> - Test`, as Hyper-V Replica names it, and there
is at most one test of a replica below one root of run directories. Tasks are called as Azure Site Recovery
calls those of its test failover job.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec
from ulid import ULID

from standby.clock import Clock, SystemClock
from standby.errors import Damaged, InvalidRequest, StandbyError
from standby.hypervisor.base import MachineNotFound, MachineUnreachable
from standby.hypervisor.host import MachineState, NotBooted, RecoveryHost, RunningMachine
from standby.objects.address import open_store
from standby.records import Finding
from standby.recovery import fixup_step, prerequisites, run_directory, serving
from standby.recovery.failover_steps import Order, Work
from standby.recovery.fixup_wish import FixUp
from standby.recovery.machine_steps import MACHINE, SERVE, Copy
from standby.recovery.run_directory import FileRows, NoRecovery
from standby.recovery.serving import Source
from standby.recovery.steps import CleanUpBegun, Journal, Row, State, Workflow
from standby.replica.journal import ReplicaLog
from standby.replica.keys import Key

CLEAN_UP: Final = "standby failover cleanup {run}"
MEND: Final = "standby failover mend {run}"
"""Commands that messages name."""

CLEAN_UP_TASK: Final = "Clean up test failover"

Told = Callable[[Row], None]
"""Told the row of every step that begins or ends."""


class TestInProgress(InvalidRequest):
    """There is a test failover of this replica already."""

    __test__ = False  # for pytest: no collection of tests


class NotServed(InvalidRequest):
    """The test failover was interrupted before its disks were served, so there is nothing to mend."""


class Phase(StrEnum):
    STARTING = "starting"
    """No machine yet: at work, or interrupted."""
    RUNNING = "running"
    """The machine is there; it may still boot."""
    ENDED = "ended"
    """It was started, and the machine has ended since."""
    CLEANING_UP = "cleaning up"


class Request(NamedTuple):
    """point: see `ReplicaLog.point`. boot_limit: seconds to wait for the guest agent; None where the machine
    has none, then nothing is waited for. key: of an encrypted replica. fix_up: what a Linux guest is told."""

    store: str
    replica: str
    point: str = "newest"
    boot_limit: float | None = 300.0
    key: Key | None = None
    fix_up: FixUp = FixUp()


class Times(NamedTuple):
    """Seconds from the command; None for what is not known (yet)."""

    first_instruction: float | None
    agent: float | None


class FailoverTest(NamedTuple):
    """A test failover as it stands now. held: whether a hold keeps the point; without it a merge may take it
    away under the machine. problems: what the machine suffers from, each with what to do."""

    run: Path
    tag: str
    name: str
    store: str
    replica: str
    seq: int
    phase: Phase
    held: bool
    times: Times
    journal: Journal
    problems: tuple[Finding, ...]


def start(
    request: Request,
    root: Path,
    host: RecoveryHost,
    *,
    clock: Clock | None = None,
    told: Told | None = None,
    tag: str = "",
) -> FailoverTest:
    """Start a test failover and return when the guest has booted. root: where run directories are. tag: the
    test's, by which whoever gave it finds it again: one that is there already is gone on with; a new one by default.

    Raises NotReady with every finding; TestInProgress; what the steps raise. What was begun is then cleaned up,
    except for a machine that started and does not boot (NotBooted): that stays to be looked at.
    """
    clock = clock or SystemClock()
    root = root.resolve()
    if tag and run_directory.is_run(root / tag):
        return _carried(root / tag, host, clock, told)
    asked = clock.now().timestamp()
    log = ReplicaLog.read(open_store(request.store), request.replica, key=request.key)
    cipher = log.cipher()
    record = log.point(request.point)
    copy = Copy.of(record, prerequisites.machine_at(record, request.replica))
    fixup_step.check(request.fix_up, copy.machine)
    order = Order(
        tag=tag or run_directory.new_tag(),
        store=log.place.store.url,
        replica=request.replica,
        replica_id=log.head.replica,
        seq=copy.seq,
        machine=msgspec.structs.replace(copy.machine, name=f"{copy.machine.name} - Test"),
        disks=copy.disks,
        hold=str(ULID()),
        by=f"test failover on {os.uname().nodename}",
        asked=asked,
        boot_limit=request.boot_limit,
        fix_up=request.fix_up,
    )
    with run_directory.root_lock(root):
        _refuse_second(root, log.head.replica, request.replica)
        journal = Work(root / order.tag, order, host, clock).journal()
        run = run_directory.make(root, order.tag, order, journal, cipher)
    return _carried(run, host, clock, told)


def _carried(run: Path, host: RecoveryHost, clock: Clock, told: Told | None) -> FailoverTest:
    """To its end; what was begun is taken back where it fails."""
    try:
        return resume(run, host, clock=clock, told=told)
    except NotBooted as error:
        error.hint += f"; `{CLEAN_UP.format(run=run)}` removes the machine"
        raise
    except (StandbyError, KeyboardInterrupt) as error:
        try:
            clean_up(run, host, clock=clock, told=told)
        except StandbyError as second:
            error.add_note(
                f"Cleaning up failed too: {second}. `{CLEAN_UP.format(run=run)}` takes it up again."
            )
        raise


def resume(
    run: Path, host: RecoveryHost, *, clock: Clock | None = None, told: Told | None = None
) -> FailoverTest:
    """Go on with a test that was interrupted. Raises CleanUpBegun, NoRecovery, RecoveryBusy, as `start`."""
    run = _canonical(run)
    with run_directory.run_lock(run):
        order = run_directory.read_order(run, Order)
        work = Work(run, order, host, clock or SystemClock())
        Workflow(work.steps(), FileRows(run), work.clock).run(told)
    return look(run, host)


def clean_up(run: Path, host: RecoveryHost, *, clock: Clock | None = None, told: Told | None = None) -> None:
    """End the machine and remove everything of the test: processes, overlays, run directory, hold.

    May be repeated until it succeeds; from any process. Raises NoRecovery for what is no run directory of ours,
    RecoveryBusy while another process works on it, and what stands in the way of a step.
    """
    run = _canonical(run)
    if run_directory.finish_removal(run):
        return
    with run_directory.run_lock(run):
        order = run_directory.read_order(run, Order)
        work = Work(run, order, host, clock or SystemClock())

        def retold(row: Row) -> None:
            if told:
                told(msgspec.structs.replace(row, task=CLEAN_UP_TASK))

        Workflow(work.steps(), FileRows(run), work.clock).undo(retold)
        run_directory.remove(run)


def list_tests(root: Path, host: RecoveryHost) -> list[FailoverTest]:
    """The tests below `root`, oldest first."""
    found = []
    for run in run_directory.recoveries(root.resolve()):
        # One that is cleaned up meanwhile is no test any more.
        with contextlib.suppress(NoRecovery):
            found.append(look(run, host))
    return found


def look(run: Path, host: RecoveryHost) -> FailoverTest:
    """A test as it stands now. Raises NoRecovery."""
    run = _canonical(run)
    order = run_directory.read_order(run, Order)
    journal = FileRows(run).load()
    facts = {name: value for row in journal.rows for name, value in row.facts.items()}
    phase = _phase(journal, run, host)
    problems = serving.problems(order.sources(run), MEND.format(run=run)) if phase is Phase.RUNNING else []
    return FailoverTest(
        run=run,
        tag=order.tag,
        name=order.machine.name,
        store=order.store,
        replica=order.replica,
        seq=order.seq,
        phase=phase,
        held=facts.get("held") == 1,
        times=Times(facts.get("first_instruction"), facts.get("agent")),
        journal=journal,
        problems=tuple(problems),
    )


def machine(run: Path, host: RecoveryHost) -> RunningMachine:
    """The machine of a test. Raises MachineNotFound if none was started yet."""
    return host.find(_canonical(run) / MACHINE)


def mend(run: Path) -> list[str]:
    """Start the servers that died again; a machine that waits for them goes on. Which disks they serve.

    Raises NotServed, CleanUpBegun, NoRecovery, RecoveryBusy.
    """
    run = _canonical(run)
    with run_directory.run_lock(run):
        journal = FileRows(run).load()
        if journal.undoing:
            raise CleanUpBegun("its clean-up has begun", subject=str(run), hint=CLEAN_UP.format(run=run))
        if any(row.step == SERVE and row.state is not State.DONE for row in journal.rows):
            # Nothing would take back servers that its row does not tell of.
            raise NotServed("its disks are not served yet", subject=str(run), hint=CLEAN_UP.format(run=run))
        dead = serving.dead(run_directory.read_order(run, Order).sources(run))
        serving.start(dead)
    return [source.disk for source in dead]


def sources(run: Path) -> Sequence[Source]:
    """The disks of a test and where they are served."""
    run = _canonical(run)
    return run_directory.read_order(run, Order).sources(run)


def _canonical(run: Path) -> Path:
    """One name for a run directory however it is given: servers are found by the path they were started with."""
    return run.resolve()


def _refuse_second(root: Path, replica: UUID, name: str) -> None:
    if other := run_directory.of_replica(root, replica):
        raise TestInProgress(
            f"there is a test failover of it already, in {other}",
            subject=name,
            hint=f"clean it up first: {CLEAN_UP.format(run=other)}",
        )


def _phase(journal: Journal, run: Path, host: RecoveryHost) -> Phase:
    if journal.undoing:
        return Phase.CLEANING_UP
    try:
        state = machine(run, host).state()
    except (MachineNotFound, Damaged):
        return Phase.STARTING
    except MachineUnreachable:
        # Its process is there: somebody else asks it, as a start that waits for the boot, or it hangs.
        return Phase.RUNNING
    if state is MachineState.GONE:
        return Phase.ENDED if journal.complete else Phase.STARTING
    return Phase.RUNNING
