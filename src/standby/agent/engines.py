"""The engines of an agent's relationships: made from its books, and run side by side."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

from ulid import ULID

from standby.agent.pursuits import Pursuits
from standby.clock import Clock
from standby.errors import InvalidRequest, StandbyError
from standby.hypervisor.base import Hypervisor, MachineNotConnected, Tracking
from standby.hypervisor.libvirt_host import LibvirtHypervisor
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.objects.address import open_store
from standby.objects.base import ObjectStore
from standby.objects.limit import Limited, Throttle
from standby.records import MachineDescription
from standby.replication.agenda import first_due
from standby.replication.books import Books
from standby.replication.engine import Engine, Observer
from standby.replication.followers import Followers
from standby.replication.following import Following
from standby.replication.hours import host_zone
from standby.replication.limits import Bandwidth
from standby.replication.relationship import Connection, Relationship
from standby.replication.runner import Failed, Runner
from standby.replication.source import Source
from standby.replication.states import State
from standby.replication.target import Target

log = logging.getLogger(__name__)

RESTING = (State.NEW, State.SEALED)


class Parts(NamedTuple):
    """An engine, and what it is made of. hypervisor: None where it is not known how the machine is reached."""

    engine: Engine
    source: Source
    target: Target
    hypervisor: Hypervisor | None


class Engines:
    """Thread-safe. observer: makes one for a machine. asking: held while a request is carried out."""

    def __init__(
        self,
        books: Books,
        clock: Clock,
        observer: Callable[[str], Observer],
        *,
        failed: Failed = lambda _engine, _error: None,
        running: bool = True,
        spread: bool = True,
    ) -> None:
        """failed: told the error with which an engine ended. running: engines are stepped by `run`; else they are
        only asked. spread: first cycles are spread over the interval.
        """
        self._books = books
        self._clock = clock
        self._observer = observer
        self.asking = threading.Lock()
        self._lock = threading.RLock()
        self._engines: dict[str, Engine] = {}
        self._lent: set[str] = set()
        self._stores: dict[str, ObjectStore] = {}
        self._tz = host_zone()
        self._host = Throttle(clock=clock)
        self._throttles: dict[str, Throttle] = {}
        self._bandwidths: dict[str, Bandwidth] = {}
        self._host_bandwidth = books.bandwidth()
        self._spread = spread
        self._owner = f"standby@{socket.gethostname()}"
        self._pursuits = Pursuits()
        self._runner = Runner(clock, failed) if running else None

    @property
    def running(self) -> bool:
        """Whether engines are stepped."""
        return self._runner is not None

    def run(self, stop: threading.Event) -> None:
        """Step the engines until `stop` is set."""
        if self._runner:
            self._runner.run(stop)

    def begin(self, relationship: Relationship) -> None:
        """Run an engine for the relationship, unless there is nothing to do for it."""
        if self._runner is not None and relationship.status.state is State.SEALED:
            # Its last write is for all its targets.
            self._pursuits.begin(relationship.id, self._followings(relationship, lambda: None))
        if self._runner is None or relationship.status.state in RESTING:
            return
        if relationship.connection is None:
            log.error(
                "%s: it is not known how the machine is reached: `standby vm connect %s --qmp SOCKET` (or --libvirt)",
                relationship.machine,
                relationship.machine,
            )
            return
        with self._lock:
            if relationship.id in self._engines or relationship.id in self._lent:
                return
            try:
                engine = self._made(relationship)
            except StandbyError as error:
                log.error("%s: %s", relationship.machine, error)
                return
            self._engines[relationship.id] = engine
            self._pursuits.begin(relationship.id, self._followings(relationship, engine.fenced_elsewhere))
            self._bandwidths[relationship.id] = relationship.policy.bandwidth
            self.throttle()
        self._runner.add(engine)

    def end(self, relationship_id: str) -> None:
        """Step it no more. Returns once nothing of it is at work."""
        with self._lock:
            engine = self._engines.pop(relationship_id, None)
            self._throttles.pop(relationship_id, None)
            self._bandwidths.pop(relationship_id, None)
        self._pursuits.end(relationship_id)
        if engine:
            if self._runner:
                self._runner.remove(engine)
            engine.close()

    @contextmanager
    def lent(self, relationship: Relationship, connection: Connection | None = None) -> Iterator[Parts]:
        """An engine of the relationship's that nobody else runs, nor asks anything of, until the block ends.

        connection: how the machine is reached, if not as the books say. Raises InvalidRequest if it is lent already.
        """
        with self._lock:
            self._refuse_lent(relationship)
            self._lent.add(relationship.id)
        try:
            self.end(relationship.id)
            parts = self._parts(relationship, connection or relationship.connection)
            try:
                yield parts
            finally:
                parts.engine.close()
        finally:
            with self._lock:
                self._lent.discard(relationship.id)
                self._throttles.pop(relationship.id, None)
            self.begin(self._books.get(relationship.id))

    def refuse_lent(self, relationship: Relationship) -> None:
        """Raises InvalidRequest while it is lent: nothing is to be changed under whoever has it."""
        with self._lock:
            self._refuse_lent(relationship)

    def _refuse_lent(self, relationship: Relationship) -> None:
        if relationship.id in self._lent:
            raise InvalidRequest(
                "it is being shut down for good, with its last write in the replica",
                subject=relationship.machine,
                tried="nothing was changed",
                hint=f"wait for that to end: `standby vm show {relationship.machine}` tells how it stands",
            )

    @contextmanager
    def held(self, relationship: Relationship, *, alone: bool) -> Iterator[Engine]:
        """The relationship's engine, running or made for this. alone: while nothing is under way with the
        machine."""
        with self._lock:
            engine = self._engines.get(relationship.id)
        if engine is None:
            engine = self._made(relationship)
            try:
                yield engine
            finally:
                engine.close()
            self.begin(self._books.get(relationship.id))
            return
        with self._runner.between(engine) if alone and self._runner else nullcontext():
            yield engine

    def follow(self, relationship: Relationship) -> None:
        """Its targets have become others: deliver to those that there are now."""
        self._pursuits.end(relationship.id)
        with self._lock:
            engine = self._engines.get(relationship.id)
            if engine is not None:
                self._pursuits.begin(relationship.id, self._followings(relationship, engine.fenced_elsewhere))

    def unfollow(self, relationship: Relationship) -> None:
        """Returns once nothing is at work with its further targets; until `follow`."""
        self._pursuits.end(relationship.id)

    def store(self, address: str) -> ObjectStore:
        """One client for all machines that replicate there."""
        with self._lock:
            if address not in self._stores:
                self._stores[address] = open_store(address)
            return self._stores[address]

    def limited(self, address: str) -> ObjectStore:
        """For what is beside replication: what it sends counts against the host's rate."""
        return Limited(self.store(address), self._host)

    def throttle(self) -> None:
        """Let the rates of the host and of each machine be what their schedules say now. At once, also for
        what is under way."""
        now = self._clock.now()
        with self._lock:
            self._host.limit = self._host_bandwidth.rate(now, self._tz)
            for relationship_id, bandwidth in self._bandwidths.items():
                self._throttles[relationship_id].limit = bandwidth.rate(now, self._tz)

    def bandwidths_changed(self) -> None:
        """Go by the schedules that the books have now."""
        with self._lock:
            self._host_bandwidth = self._books.bandwidth()
            for relationship_id in self._bandwidths:
                self._bandwidths[relationship_id] = self._books.get(relationship_id).policy.bandwidth
        self.throttle()

    def close(self) -> None:
        for relationship_id in list(self._engines):
            self.end(relationship_id)

    def _made(self, relationship: Relationship) -> Engine:
        return self._parts(relationship, relationship.connection).engine

    def _parts(self, relationship: Relationship, connection: Connection | None) -> Parts:
        machine = relationship.machine
        reached = reach(machine, connection) if connection else None
        hypervisor = reached or Unconnected()
        source = Source(
            self._books, relationship.id, hypervisor, lambda: hypervisor.describe(machine), self._clock
        )
        target = Target(
            self._books,
            relationship.id,
            self._limited(relationship.id, relationship.store),
            self._owner,
            self._clock,
            lambda: str(ULID()),
        )
        now = self._clock.monotonic()
        first = first_due(machine, relationship.policy.frequency, now) - now if self._spread else 0.0
        engine = Engine(
            self._books,
            relationship.id,
            source,
            target,
            self._clock,
            self._observer(machine),
            first_cycle=first,
            stores=lambda address: self._limited(relationship.id, address),
        )
        return Parts(engine, source, target, reached)

    def _followings(self, relationship: Relationship, fenced: Callable[[], None]) -> list[Following]:
        return [
            Following(
                self._books,
                relationship.id,
                one.id,
                lambda address: self._limited(relationship.id, address),
                self._owner,
                self._clock,
                lambda: str(ULID()),
                fenced,
            )
            for one in Followers(self._books).of(relationship.id)
        ]

    def _limited(self, relationship: str, address: str) -> ObjectStore:
        """What a machine sends, to all its targets, counts against its own rate and the host's."""
        if self._runner is None:
            return self.store(address)
        with self._lock:
            throttle = self._throttles.setdefault(relationship, Throttle(clock=self._clock))
        return Limited(Limited(self.store(address), self._host), throttle)


class Unconnected:
    """The hypervisor of a machine whose sockets are not known, so that it can be paused, or have its policy
    changed, without it."""

    def describe(self, machine: str) -> MachineDescription:
        raise self._told(machine)

    def tracking(self, machine: str, relationship: str, scratch: Path) -> Tracking:
        raise self._told(machine)

    def _told(self, machine: str) -> MachineNotConnected:
        return MachineNotConnected(
            "it is not known how the machine is reached",
            subject=machine,
            hint=f"`standby vm connect {machine} --qmp SOCKET` names its control socket",
        )


def reach(machine: str, connection: Connection) -> Hypervisor:
    """The hypervisor of one machine."""
    if connection.libvirt:
        return LibvirtHypervisor(connection.libvirt)
    reached = QemuMachine(
        qmp=Path(connection.qmp),
        agent=Path(connection.agent) if connection.agent else None,
        nbd=Path(connection.nbd) if connection.nbd else None,
    )
    return QemuHypervisor({machine: reached})
