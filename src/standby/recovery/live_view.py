"""A failover, or a failback, as it stands: what is known of it without changing anything."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from standby.errors import InvalidRequest
from standby.hypervisor.base import MachineNotFound, MachineUnreachable
from standby.hypervisor.host import MachineState, RecoveryHost, RunningMachine
from standby.records import Finding
from standby.recovery import live_steps, machine_steps, run_directory, serving
from standby.recovery.failback_steps import COMPARE, COMPLETE
from standby.recovery.failover import Times
from standby.recovery.live_steps import COMMITTED, FENCE, KNOWN, Known, LiveOrder, copy_of
from standby.recovery.machine_steps import MACHINE, START
from standby.recovery.run_directory import FileRows, NoRecovery
from standby.recovery.serving import Source
from standby.recovery.steps import Journal, State

RESUME: Final = "standby failover resume {run}"
MEND: Final = "standby failover mend {run}"
"""Commands that messages name."""


class Phase(StrEnum):
    FAILING_OVER = "failing over"
    FAILED_OVER = "failed over"
    SYNCHRONIZING = "synchronizing"
    WAITING = "waits to be completed"
    CHANGING_POINT = "changing point"
    COMMITTED = "committed"
    CANCELLING = "cancelling"


class Failover(NamedTuple):
    """A failover as it stands now.

    seq: the point, 0 as long as none is chosen. machine: None before it was started. known: what was known of
    the source when it began. epoch: of its fence, 0 before. whole: disks of which nothing is in the store only.
    problems: what it suffers from, each with what to do.
    """

    run: Path
    tag: str
    name: str
    store: str
    replica: str
    seq: int
    phase: Phase
    machine: MachineState | None
    known: str
    epoch: int
    disks: tuple[str, ...]
    whole: tuple[str, ...]
    times: Times
    journal: Journal
    problems: tuple[Finding, ...]


def list_failovers(root: Path, host: RecoveryHost) -> list[Failover]:
    """The failovers below `root`, oldest first."""
    found = []
    for run in run_directory.recoveries(root.resolve()):
        # One that is removed meanwhile is none any more.
        with contextlib.suppress(NoRecovery):
            found.append(look(run, host))
    return found


def look(run: Path, host: RecoveryHost) -> Failover:
    """A failover as it stands now. Raises NoRecovery."""
    run = run.resolve()
    order = run_directory.read_order(run, LiveOrder)
    journal = FileRows(run).load()
    copy = copy_of(run)
    facts = {name: value for row in journal.rows for name, value in row.facts.items()}
    known = run_directory.find(run / KNOWN, Known)
    state = state_of(run, host)
    phase = _phase(run, journal)
    disks = tuple(disk.id for disk in copy.disks) if copy else ()
    return Failover(
        run=run,
        tag=order.tag,
        name=order.machine,
        store=order.store,
        replica=order.replica,
        seq=copy.seq if copy else 0,
        phase=phase,
        machine=state,
        known=known.source if known else "",
        epoch=int(journal.row(FENCE).facts.get("epoch", 0)),
        disks=disks,
        whole=disks
        if order.kind == "failback"
        else tuple(disk for index, disk in enumerate(disks) if machine_steps.whole_mark(run, index).exists()),
        times=Times(facts.get("first_instruction"), facts.get("agent")),
        journal=journal,
        problems=tuple(_problems(run, order, journal, state)) if not journal.undoing else (),
    )


def machine(run: Path, host: RecoveryHost) -> RunningMachine:
    """The machine of a failover. Raises MachineNotFound if none was started yet."""
    return host.find(run.resolve() / MACHINE)


def served(run: Path) -> list[Source]:
    """The disks that are read from the store; a failback has none."""
    order = run_directory.read_order(run, LiveOrder)
    return [] if order.kind == "failback" else live_steps.sources(run, order)


def refuse_reverse(found: Failover) -> None:
    """Raises InvalidRequest unless its machine can be protected from here, back into the same replica."""
    if found.phase is not Phase.COMMITTED:
        raise InvalidRequest(
            f"it is not committed but {found.phase.value}",
            subject=found.name,
            hint=f"`standby failover commit {found.run}` keeps it",
        )
    if set(found.whole) != set(found.disks):
        raise InvalidRequest(
            "not all of its disks are here yet",
            subject=found.name,
            hint=f"`standby failover hydrate {found.run}`",
        )


def _phase(run: Path, journal: Journal) -> Phase:
    if journal.undoing:
        return Phase.CANCELLING
    if (run / COMMITTED).exists():
        return Phase.COMMITTED
    if journal.back_to:
        return Phase.CHANGING_POINT
    if (
        run_directory.read_order(run, LiveOrder).kind == "failback"
        and journal.row(START).state is not State.DONE
    ):
        if journal.row(COMPARE).state is not State.DONE:
            return Phase.SYNCHRONIZING
        return Phase.FAILING_OVER if (run / COMPLETE).exists() else Phase.WAITING
    return Phase.FAILED_OVER if journal.row(START).state is State.DONE else Phase.FAILING_OVER


def state_of(run: Path, host: RecoveryHost) -> MachineState | None:
    try:
        return machine(run, host).state()
    except MachineNotFound:
        return None
    except MachineUnreachable:
        # Its process is there: somebody else asks it, as a start that waits for the boot, or it hangs.
        return MachineState.RUNNING


def _problems(run: Path, order: LiveOrder, journal: Journal, state: MachineState | None) -> list[Finding]:
    if journal.row(START).state is not State.DONE:
        return []
    if state in (None, MachineState.GONE):
        return [
            Finding(
                subject=order.machine,
                problem="its machine is off",
                fix=f"{RESUME.format(run=run)} starts it again, on its own disks",
                blocks=True,
            )
        ]
    findings = serving.problems(served(run), MEND.format(run=run))
    if state is MachineState.PAUSED:
        findings.append(
            Finding(
                subject=order.machine,
                problem="its processors are stopped, most often because a disk had an error",
                fix=MEND.format(run=run),
                blocks=True,
            )
        )
    return findings
