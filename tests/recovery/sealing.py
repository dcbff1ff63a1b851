"""A protected machine of the tests, sealed as `standby failover planned` does."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from ulid import ULID

from standby.clock import SystemClock
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.objects.address import open_store
from standby.replication.books import Books
from standby.replication.engine import Engine
from standby.replication.seal import Sealing
from standby.replication.source import Source
from standby.replication.target import Target
from tests.replication.rig import Recorder

PATIENCE = 60.0


def seal(
    books_folder: Path,
    qmp: Path,
    agent: Path | None,
    *,
    limit: float = 60.0,
    force: bool = False,
    done=None,
    owner: str = "agent@host-a",
) -> None:
    """Of the one relationship in the books."""
    with closing(Books(books_folder)) as books:
        [relationship] = books.relationships()
        machine = relationship.machine
        hypervisor = QemuHypervisor({machine: QemuMachine(qmp=qmp, agent=agent)})
        clock, store = SystemClock(), open_store(relationship.store)
        source = Source(books, relationship.id, hypervisor, lambda: hypervisor.describe(machine), clock)
        target = Target(books, relationship.id, store, owner, clock, lambda: str(ULID()))
        with closing(Engine(books, relationship.id, source, target, clock, Recorder())) as engine:
            Sealing(books, relationship.id, engine, source, target, hypervisor).seal(
                patience=PATIENCE, limit=limit, force=lambda: force, done=done or (lambda _task: None)
            )
