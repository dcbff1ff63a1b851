"""The steps of a failover in earnest.

The source's log is fenced first: only then is its tail final, and which point is the newest decided. The fence
is not taken back with the rest: whoever owned the replica before says so when it is to go on there. A cancelled
failover only says in the log that it is one.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec
from ulid import ULID

from standby.clock import Clock
from standby.errors import Bug, Fenced, NeedsPerson, Recoverable
from standby.hypervisor.host import Network, RecoveryHost
from standby.recovery import machine_steps, networks, prerequisites, run_directory, secret, split_brain
from standby.recovery.machine_steps import Copy, MachineSteps, Manner, RunOrder, never, so
from standby.recovery.networks import NetworkPlan
from standby.recovery.prerequisites import NotReady
from standby.recovery.run_directory import FileRows
from standby.recovery.serving import Source
from standby.recovery.split_brain import CANCELLED, OWNER, failed_over_since
from standby.recovery.steps import Facts, Journal, Row, State, Step, nothing
from standby.replica.documents import Record
from standby.replica.journal import ReplicaLog, read_settled
from standby.replica.writer import attach

CHECK: Final = "Prerequisites check for failover"
SOURCE_CHECK: Final = "Check the source virtual machine"
SYNCHRONIZE: Final = "Synchronizing the latest changes"

FENCE: Final = "fence"
CHOOSE: Final = "choose"
"""Names of steps that others refer to."""

COPY: Final = "copy.json"
WISH: Final = "wish.json"
KNOWN: Final = "known.json"
COMMITTED: Final = "committed.json"


_TARGETS: Final = {Network.RESTRICTED: "isolated"}


class LiveOrder(RunOrder, frozen=True, kw_only=True):
    """What a failover is told. machine: its name. source_qmp: the source's control socket, "" where this host
    does not reach it. confirmed: an operator said that the source is down."""

    kind: str = "failover"
    machine: str
    network: Network
    bridge: str
    source_qmp: str
    confirmed: bool
    networks: NetworkPlan = NetworkPlan()

    @property
    def default_network(self) -> str:
        """As networks.network_named reads it."""
        return f"bridge={self.bridge}" if self.bridge else _TARGETS.get(self.network, self.network.value)

    @property
    def maps(self) -> bool:
        """Whether cards are told apart, or get other addresses."""
        return self.networks != NetworkPlan()

    @property
    def owner(self) -> str:
        return f"{OWNER} {self.tag} on {os.uname().nodename}"

    @property
    def manner(self) -> Manner:
        return Manner(
            create="Start failover",
            prepare="Start failover",
            start="Start the replica virtual machine",
            live=True,
            network=Network.MAPPED if self.maps else self.network,
            bridge="" if self.maps else self.bridge,
        )


class Wish(msgspec.Struct, frozen=True):
    """The point that is asked for (see `ReplicaLog.point`)."""

    point: str


class Known(msgspec.Struct, frozen=True):
    """What is known of the source, as a sentence."""

    source: str


class FailedOverElsewhere(Fenced):
    """A later failover of the same machine owns the replica: it must not be started here any more."""


def copy_of(run: Path) -> Copy | None:
    """What is started; None as long as no point is chosen."""
    return run_directory.find(run / COPY, Copy)


def sources(run: Path, order: LiveOrder) -> list[Source]:
    copy = copy_of(run)
    return machine_steps.sources(run, order, copy, machine_steps.LIVE_PATIENCE) if copy else []


class Work:
    """One failover in its run directory."""

    def __init__(self, run: Path, order: LiveOrder, host: RecoveryHost, clock: Clock) -> None:
        self.clock = clock
        self._run = run
        self._order = order
        self._host = host
        self._machine = MachineSteps(run, order, self._copy, host, clock, order.manner)

    def steps(self) -> list[Step]:
        return [
            Step("check", CHECK, self._check, nothing, never),
            Step("source", SOURCE_CHECK, self._ask_source, self._forget_source, self._asked_source),
            *self._fence_steps(),
            *self._machine.steps(),
        ]

    def _fence_steps(self) -> list[Step]:
        return [
            Step(FENCE, SYNCHRONIZE, self._fence, self._call_off, self._fenced),
            Step(CHOOSE, SYNCHRONIZE, self._choose, self._forget_choice, self._chosen),
        ]

    def journal(self) -> Journal:
        """The rows of a failover that has not begun."""
        return Journal(rows=tuple(Row(step=step.name, task=step.task) for step in self.steps()))

    def _check(self) -> None:
        copy = copy_of(self._run)
        if copy is None:
            log = self._log()
            self._check_copy(log.point(self._wish()))
            return
        # It has been here before: only who owns the replica by now may stand against it.
        try:
            self._refuse_elsewhere()
        except (Recoverable, NeedsPerson):
            # A machine whose disks are here whole needs no store to start again.
            if self._needs_store():
                raise

    def _needs_store(self) -> bool:
        """Whether its disks are not wholly here."""
        return bool(sources(self._run, self._order))

    def _refuse_elsewhere(self) -> None:
        later = failed_over_since(self._log().records, self._epoch())
        if later:
            raise FailedOverElsewhere(
                f"it failed over again at {later.at}: {later.writer}",
                subject=self._order.machine,
                tried="nothing was started",
                hint=f"do not start it here; `standby failover cleanup {self._run}` removes what is left",
            )

    def _ask_source(self) -> None:
        qmp = Path(self._order.source_qmp) if self._order.source_qmp else None
        self._judge_source(qmp, self._order.confirmed)

    def _judge_source(self, qmp: Path | None, confirmed: bool) -> None:
        known = split_brain.judge(self._log(), self._order.machine, qmp, confirmed, self.clock.now())
        run_directory.put(self._run / KNOWN, Known(known))

    def _forget_source(self) -> None:
        (self._run / KNOWN).unlink(missing_ok=True)

    def _asked_source(self) -> Facts | None:
        return so((self._run / KNOWN).exists())

    def _fence(self) -> Facts:
        order = self._order
        writer = attach(
            order.place_at(self._run).store,
            order.replica,
            key=secret.key_of(self._run),
            owner=order.owner,
            clock=self.clock,
            new_id=lambda: str(ULID()),
        )
        return {"epoch": writer.epoch, "fence": writer.tail.seq}

    def _call_off(self) -> None:
        """Say in the log that this failover is none any more; the source stays fenced (F1)."""
        fence = self._fenced()
        epoch = int(fence["epoch"]) if fence else 0
        epoch = self._epoch() or epoch
        if not epoch:
            return
        # Whoever came after has a newer epoch, and needs not be told.
        with contextlib.suppress(Fenced):
            attach(
                self._order.place_at(self._run).store,
                self._order.replica,
                key=secret.key_of(self._run),
                owner=f"{CANCELLED}{self._order.owner}",
                clock=self.clock,
                new_id=lambda: str(ULID()),
                epoch=epoch + 1,
            )

    def _epoch(self) -> int:
        """Of the fence; 0 before it was made."""
        return int(self._row(FENCE).facts.get("epoch", 0))

    def _fenced(self) -> Facts | None:
        if self._row(FENCE).state is State.DONE:
            return {}
        return next(
            (
                {"epoch": record.epoch, "fence": record.seq}
                for record in reversed(self._log().records)
                if record.kind == "fence" and record.writer == self._order.owner
            ),
            None,
        )

    def _choose(self) -> Facts:
        record = self._log().point(self._wish())
        run_directory.put(self._run / COPY, self._check_copy(record))
        return {"point": record.seq}

    def _chosen(self) -> Facts | None:
        copy = copy_of(self._run)
        return {"point": copy.seq} if copy else None

    def _forget_choice(self) -> None:
        (self._run / COPY).unlink(missing_ok=True)

    def _check_copy(self, record: Record) -> Copy:
        """The copy of a point, if this host can start it. Raises NotReady, PointNotBootable."""
        place = self._order.place_at(self._run)
        source = prerequisites.machine_at(record, self._order.replica)
        copy = Copy.of(record, source)
        findings = prerequisites.check(place, record, copy.machine, self._host, self._run)
        plan, default = self._order.networks, self._order.default_network
        findings += networks.check(source, plan, default)
        if self._order.maps:
            copy = msgspec.structs.replace(copy, machine=networks.apply(copy.machine, plan, default))
        if any(finding.blocks for finding in findings):
            raise NotReady(copy.machine.name, findings, "failover")
        return copy

    def _copy(self) -> Copy:
        copy = copy_of(self._run)
        if copy is None:
            raise Bug("a step works on a point before one is chosen", subject=str(self._run))
        return copy

    def _wish(self) -> str:
        wish = run_directory.find(self._run / WISH, Wish)
        return wish.point if wish else "newest"

    def _row(self, step: str) -> Row:
        return FileRows(self._run).load().row(step)

    def _log(self) -> ReplicaLog:
        return read_settled(self._order.place_at(self._run))[0]
