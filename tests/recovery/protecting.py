"""A running machine of the tests, protected up to its first point."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from ulid import ULID

from standby.clock import SystemClock
from standby.hypervisor.host import RunningMachine
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.objects.directory import DirectoryStore
from standby.replication.books import Books
from standby.replication.enable import Request, enable
from standby.replication.engine import Engine
from standby.replication.policy import Policy
from standby.replication.source import Source
from standby.replication.states import State
from standby.replication.target import Target
from tests.replication.rig import Recorder


def protect(machine: RunningMachine, books_folder: Path, store_folder: Path, *, take_over: bool = False):
    """Replicate into `web` until protected; the store. What was seen is in `protect.seen`."""
    store = DirectoryStore(store_folder, create=not take_over)
    clock, seen = SystemClock(), Recorder()
    hypervisor = QemuHypervisor({"web": QemuMachine(qmp=machine.qmp, agent=machine.agent)})
    with closing(Books(books_folder)) as books:
        request = Request("web", "web", Policy(frequency=1, reserve=0), take_over=take_over)
        known = next(iter(books.relationships()), None)
        relationship = known or enable(request, books, hypervisor, store, "host-a", clock)
        source = Source(books, relationship.id, hypervisor, lambda: hypervisor.describe("web"), clock)
        target = Target(books, relationship.id, store, "agent@host-a", clock, lambda: str(ULID()))
        with closing(Engine(books, relationship.id, source, target, clock, seen)) as engine:
            for _ in range(400):
                engine.step()
                if books.get(relationship.id).status.state is State.PROTECTED:
                    break
            else:
                raise AssertionError(f"not protected; errors: {seen.errors}")
    return store
