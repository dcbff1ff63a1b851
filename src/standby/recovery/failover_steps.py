"""The steps of a test failover."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from standby.clock import Clock
from standby.hypervisor.host import RecoveryHost
from standby.records import MachineDescription
from standby.recovery import machine_steps, prerequisites
from standby.recovery.machine_steps import Copy, DiskOrder, MachineSteps, Manner, RunOrder, never
from standby.recovery.prerequisites import NotReady
from standby.recovery.serving import Source
from standby.recovery.steps import Journal, Row, Step, nothing
from standby.replica.journal import read_settled

CHECK: Final = "Prerequisites check for test failover"
MANNER: Final = Manner(
    create="Create test virtual machine",
    prepare="Preparing the virtual machine",
    start="Start the virtual machine",
)


class Order(RunOrder, frozen=True, kw_only=True):
    """What a test failover is to do: fixed before its first step. machine: as it will be started."""

    seq: int
    machine: MachineDescription
    disks: tuple[DiskOrder, ...]

    @property
    def copy(self) -> Copy:
        return Copy(seq=self.seq, machine=self.machine, disks=self.disks)

    def sources(self, run: Path) -> list[Source]:
        return machine_steps.sources(run, self, self.copy)


class Work:
    """One test failover in its run directory."""

    def __init__(self, run: Path, order: Order, host: RecoveryHost, clock: Clock) -> None:
        self.clock = clock
        self._run = run
        self._order = order
        self._host = host
        self._machine = MachineSteps(run, order, lambda: order.copy, host, clock, MANNER)

    def steps(self) -> list[Step]:
        return [Step("check", CHECK, self._check, nothing, never), *self._machine.steps()]

    def journal(self) -> Journal:
        """The rows of a test that has not begun."""
        return Journal(rows=tuple(Row(step=step.name, task=step.task) for step in self.steps()))

    def _check(self) -> None:
        place = self._order.place_at(self._run)
        log = read_settled(place, upto=self._order.seq)[0]
        record = log.point(str(self._order.seq))
        findings = prerequisites.check(place, record, self._order.machine, self._host, self._run)
        if any(finding.blocks for finding in findings):
            raise NotReady(self._order.machine.name, findings, "test failover")
