"""A protected machine for tests: disks behind a real qemu-storage-daemon, a directory store, one engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from ulid import ULID

from standby.clock import Clock, SystemClock
from standby.objects.base import ObjectStore
from standby.objects.directory import DirectoryStore
from standby.replica.journal import Place, ReplicaLog
from standby.replica.keys import KeyFile
from standby.replica.twin import create_twin
from standby.replication.books import Books
from standby.replication.decide import SourceAction, TargetAction
from standby.replication.enable import Request, enable
from standby.replication.engine import Engine
from standby.replication.followers import Followers
from standby.replication.following import Following
from standby.replication.policy import Policy
from standby.replication.source import Source
from standby.replication.states import State
from standby.replication.target import Target
from tests.hypervisor.processes import contents


class SettableClock:
    """A wall clock that a test moves; durations come from the same time."""

    def __init__(self) -> None:
        self.time = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)


class Recorder:
    """Keeps what the engine tells."""

    def __init__(self) -> None:
        self.states, self.cycles, self.records, self.errors = [], [], [], []
        self.scanned_bytes = {}

    def state(self, state):
        self.states.append(state)

    def scanned(self, disk, count):
        self.scanned_bytes[disk] = self.scanned_bytes.get(disk, 0) + count

    def cycle(self, report):
        self.cycles.append(report)

    def committed(self, record):
        self.records.append(record)

    def failed(self, error):
        self.errors.append(error)


class Rig:
    """One relationship of machine `vm`, replicated to `vm` in the store."""

    def __init__(
        self,
        folder: Path,
        hypervisor,
        store: ObjectStore | None = None,
        *,
        name: str = "agent",
        spool: Path | None = None,
        clock: Clock | None = None,
        key: KeyFile | None = None,
    ) -> None:
        self.folder = folder
        self.key = key
        self.hypervisor = hypervisor
        self.store = store or DirectoryStore(folder / "store", create=True)
        self.spool = spool or folder / "spool"
        self.spool.mkdir(exist_ok=True)
        self.clock = clock or SystemClock()
        self.seen = Recorder()
        self.books = Books(folder / name)
        self.engine: Engine | None = None
        self.stores: dict[str, ObjectStore] = {}

    def enable(self, **request) -> None:
        """Enable protection unless it is, and make the engine."""
        if not self.books.relationships() or self.books.relationships()[0].status.state is State.NEW:
            request = {"spool": str(self.spool), "key": self.key} | request
            wanted = Request("vm", "vm", Policy(frequency=1, reserve=0), **request)
            enable(wanted, self.books, self.hypervisor, self.store, "host-a", self.clock)
        self.id = self.books.relationships()[0].id
        self.source = Source(
            self.books, self.id, self.hypervisor, lambda: self.hypervisor.describe("vm"), self.clock
        )
        self.target = Target(self.books, self.id, self.store, "agent@host-a", self.clock, lambda: str(ULID()))
        self.engine = Engine(
            self.books,
            self.id,
            self.source,
            self.target,
            self.clock,
            self.seen,
            tz=UTC,
            stores=lambda address: self.stores[address],
        )

    def follow(self, store: ObjectStore, *, take_over: bool = False) -> Following:
        """Replicate to this store too, unless that is so already."""
        self.stores |= {one.url: one for one in (self.store, store)}
        followers = Followers(self.books)
        known = next((one.id for one in followers.of(self.id) if one.store == store.url), None)
        if known is None:
            create_twin(Place(self.store, "vm", self.key), store, "vm", origin="host-a", clock=self.clock)
            known = followers.add(self.id, store.url, "vm", take_over=take_over)
        return Following(
            self.books,
            self.id,
            known,
            lambda address: self.stores[address],
            "agent@host-a",
            self.clock,
            lambda: str(ULID()),
            self.engine.fenced_elsewhere,
        )

    @property
    def state(self) -> State:
        return self.books.get(self.id).status.state

    def until(self, condition, steps: int = 200):
        """Step until the condition holds."""
        for _ in range(steps):
            if found := condition():
                return found
            self.engine.step()
        raise AssertionError(f"{steps} steps and not yet; errors: {self.seen.errors}, state {self.state}")

    def protect(self) -> None:
        """Enable protection and go on until the first point is committed."""
        self.enable()
        self.until(lambda: self.state is State.PROTECTED)

    def point(self, consistency=None):
        """One more point, committed."""
        self.until(lambda: not self.books.queue(self.id))
        report = self.source.cycle(*([consistency] if consistency else []))
        record = self.target.ship(self.books.queue(self.id)[0])
        return report, record

    def drain(self) -> None:
        """Step until nothing is left to do but wait."""
        for _ in range(200):
            if self.engine.step() == (SourceAction.WAIT, TargetAction.WAIT):
                return
        raise AssertionError("there is always something to do")

    def log(self) -> ReplicaLog:
        return ReplicaLog.read(self.store, "vm", key=self.key)

    def images(self, seq: int | None = None) -> dict[str, bytearray]:
        """Every disk's content as at a point (the newest)."""
        log = self.log()
        record = log.point(str(seq) if seq else "newest")
        return {disk.id: contents(log.image(record.seq, disk.id)) for disk in record.disks}

    def close(self) -> None:
        if self.engine:
            self.engine.close()
            self.engine = None
        self.books.close()
