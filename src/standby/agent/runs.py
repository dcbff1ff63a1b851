"""The recoveries of a host as its vault is told: tests, failovers and failbacks, by their run directories."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from standby.hypervisor.base import MachineNotFound, MachineUnreachable
from standby.hypervisor.host import RecoveryHost
from standby.hypervisor.launch import QemuHost, StartedMachine
from standby.link.messages import Reason, RunStanding
from standby.records import Finding
from standby.recovery import failover, live_view, run_directory
from standby.recovery.failover import FailoverTest
from standby.recovery.live_view import Failover
from standby.recovery.machine_steps import RunOrder
from standby.recovery.run_directory import FAILOVERS, TESTS, NoRecovery
from standby.replication.health import Level


class Unasked(QemuHost):
    """A host whose machines are not spoken to: who works on a run has their control sockets."""

    def find(self, run: Path) -> StartedMachine:
        if not run.is_dir():
            raise MachineNotFound("no machine was started here", subject=str(run))
        raise MachineUnreachable("it is being worked on", subject=str(run))


def runs_of(folder: Path, host: RecoveryHost) -> tuple[RunStanding, ...]:
    """All of them, oldest first of each kind. Asks their machines: seconds, where one hangs."""
    return (*_tests(folder / TESTS, host), *_failovers(folder / FAILOVERS, host))


def _tests(root: Path, host: RecoveryHost) -> Iterator[RunStanding]:
    for run in run_directory.recoveries(root.resolve()):
        # One that is cleaned up meanwhile is none any more.
        with contextlib.suppress(NoRecovery):
            yield _of_test(failover.look(run, _asked(run, host)))


def _failovers(root: Path, host: RecoveryHost) -> Iterator[RunStanding]:
    for run in run_directory.recoveries(root.resolve()):
        with contextlib.suppress(NoRecovery):
            kind = run_directory.read_order(run, RunOrder).kind
            yield _of_failover(kind, live_view.look(run, _asked(run, host)))


def _asked(run: Path, host: RecoveryHost) -> RecoveryHost:
    return Unasked() if run_directory.busy(run) else host


def _of_test(shown: FailoverTest) -> RunStanding:
    states = {failover.Phase.RUNNING: "running", failover.Phase.ENDED: "gone"}
    return RunStanding(
        run=str(shown.run),
        kind="test",
        machine=shown.name,
        store=shown.store,
        replica=shown.replica,
        point=shown.seq,
        phase=shown.phase.value,
        machine_state=states.get(shown.phase, ""),
        first_instruction=shown.times.first_instruction,
        agent_answered=shown.times.agent,
        problems=_reasons(shown.problems),
    )


def _of_failover(kind: str, shown: Failover) -> RunStanding:
    return RunStanding(
        run=str(shown.run),
        kind=kind,
        machine=shown.name,
        store=shown.store,
        replica=shown.replica,
        point=shown.seq,
        phase=shown.phase.value,
        machine_state=shown.machine.value if shown.machine else "",
        disks=shown.disks,
        whole=shown.whole,
        first_instruction=shown.times.first_instruction,
        agent_answered=shown.times.agent,
        problems=_reasons(shown.problems),
    )


def _reasons(findings: Sequence[Finding]) -> tuple[Reason, ...]:
    return tuple(
        Reason(
            level=str(Level.CRITICAL if one.blocks else Level.WARNING),
            text=f"{one.subject}: {one.problem}. {one.fix}",
        )
        for one in findings
    )
