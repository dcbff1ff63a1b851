"""All that an agent has for its vault, put together: link, orders, inventory and what is looked at for heartbeats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Final

from ulid import ULID

from standby.agent.carrying import HostCarrier
from standby.agent.discovery import SOCKETS, Inventory, QemuInventory
from standby.agent.engines import Engines
from standby.agent.ledger import Ledger
from standby.agent.link import Link
from standby.agent.orders import Orders
from standby.agent.report import Looking, standing
from standby.agent.runs import runs_of
from standby.agent.watched import Watched
from standby.clock import Clock
from standby.hypervisor.host import RecoveryHost
from standby.hypervisor.launch import QemuHost
from standby.link.messages import Heartbeat, RunStanding, Seen
from standby.replication.books import Books

MACHINES_EVERY: Final = 30.0
RUNS_EVERY: Final = 10.0
"""Seconds between two looks at the host's machines, and at its recoveries."""


class Host:
    """What heartbeats tell of a host."""

    def __init__(
        self, books: Books, clock: Clock, inventories: Sequence[Inventory], recovery: RecoveryHost
    ) -> None:
        self._clock = clock
        self._books = books
        self._looking = Looking(books)
        self._instance = str(ULID())
        self._inventories = inventories
        self._machines = Watched("machines", self._all_machines, MACHINES_EVERY, clock)
        self._runs = Watched("recoveries", lambda: runs_of(books.folder, recovery), RUNS_EVERY, clock)

    def start(self) -> None:
        self._machines.start()
        self._runs.start()

    def again(self) -> None:
        """An order has ended: what it changed is to be seen soon."""
        self._machines.again()
        self._runs.again()

    def close(self) -> None:
        self._machines.close()
        self._runs.close()

    def heartbeat(self) -> Heartbeat:
        """From the books and what was seen last; waits for nothing."""
        machines: tuple[Seen, ...] | None = self._machines.newest
        runs: tuple[RunStanding, ...] | None = self._runs.newest
        return Heartbeat(
            instance=self._instance,
            version=version("standby"),
            time=self._clock.now().isoformat(),
            machines=machines or (),
            relationships=tuple(standing(one) for one in self._looking.all(agent=True)),
            runs=runs or (),
            missing=tuple(name for name, seen in (("machines", machines), ("runs", runs)) if seen is None),
        )

    def _all_machines(self) -> tuple[Seen, ...]:
        return tuple(one for inventory in self._inventories for one in inventory.machines())


@contextmanager
def linked(
    books: Books,
    engines: Engines,
    clock: Clock,
    *,
    sockets: Path = SOCKETS,
    recovery: RecoveryHost | None = None,
) -> Iterator[Link]:
    """While it is entered, the host talks to its vault, if it belongs to one. sockets: see discovery.py."""
    host = recovery or QemuHost()
    told = Host(books, clock, [QemuInventory(books, clock, sockets)], host)

    def orders() -> Orders:
        opened = Orders(Ledger(books.folder), HostCarrier(books, engines, host, books.folder, clock), clock)
        told.start()
        return opened

    link = Link(books.folder, books, clock, told.heartbeat, orders, ended=told.again)
    link.start()
    try:
        yield link
    finally:
        link.close()
        told.close()
