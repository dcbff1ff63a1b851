"""The demo: a guest is protected while it writes, and its newest point is booted from the store and checked."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from ulid import ULID

from standby.clock import Clock, SystemClock
from standby.demo import guest
from standby.demo.content import DiskPlan
from standby.demo.guest import Guest
from standby.demo.stamps import prefix_of_disks
from standby.errors import Damaged, NeedsPerson, StandbyError
from standby.hypervisor.base import Consistency
from standby.hypervisor.host import DiskImage, RunningMachine
from standby.hypervisor.launch import QemuHost
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.objects.directory import DirectoryStore
from standby.records import Finding
from standby.recovery import failover
from standby.recovery.failover import FailoverTest
from standby.replica.documents import Record
from standby.replica.journal import ReplicaLog
from standby.replica.verify import verify_point
from standby.replication.books import Books
from standby.replication.enable import Request, enable
from standby.replication.engine import Engine
from standby.replication.policy import Policy
from standby.replication.relationship import Relationship
from standby.replication.runner import run_alone
from standby.replication.source import CycleReport, Source
from standby.replication.states import State
from standby.replication.target import Target

NAME: Final = "web"
PLANS: Final = (DiskPlan("vhdx", 640 << 20), DiskPlan("qcow2", 448 << 20))
"""Two data disks, together over 1 GiB of real files."""

STAMPS_PER_SECOND: Final = 20
FREQUENCY: Final = 5
DELTAS: Final = 5
BOOT_LIMIT: Final = 120.0
PATIENCE: Final = 170.0
"""Seconds that any one phase may take."""


class DemoFailed(NeedsPerson):
    """The demo did not show what it should. What there is stays for a look with --keep."""


class Point(NamedTuple):
    """A committed recovery point. changed, sent: bytes. Times in seconds.

    lag: from its instant to its commit. rpo: how old the newest point was just before this one came; what a
    disaster at that moment would have cost. None for the first point.
    """

    record: Record
    lag: float
    rpo: float | None
    changed: int
    sent: int
    window: float


class Outcome(NamedTuple):
    """What the demo measured. Sizes in bytes, times in seconds.

    content: bytes of files on the disks. initial: stored by initial replication, and how long it took.
    booted: from the command to the guest agent's answer. stamps: those of the recovered point, an exact
    prefix on all disks. files: files whose checksums hold in the booted copy. verified: points and bytes.
    """

    content: int
    initial_sent: int
    initial_seconds: float
    points: tuple[Point, ...]
    first_instruction: float
    booted: float
    stamps: int
    files: int
    verified_points: int
    verified_bytes: int


class Told(Protocol):
    """Told what the demo does, for a person to follow."""

    def phase(self, title: str) -> None: ...

    def note(self, text: str) -> None: ...

    def findings(self, findings: Sequence[Finding]) -> None: ...

    def scanning(self, disk: str, size: int, count: int) -> None: ...

    def point(self, point: Point) -> None: ...


class _Events:
    """The engine's observer: keeps what came, and wakes who waits for more."""

    def __init__(self, told: Told, clock: Clock) -> None:
        self._told = told
        self._clock = clock
        self._changed = threading.Condition()
        self._cycles: dict[str, CycleReport] = {}
        self.sizes: dict[str, int] = {}
        self.records: list[Record] = []
        self.points: list[Point] = []
        self.failure: BaseException | None = None
        self.states: list[State] = []

    def state(self, state: State) -> None:
        with self._changed:
            self.states.append(state)
            self._changed.notify_all()

    def scanned(self, disk: str, count: int) -> None:
        self._told.scanning(disk, self.sizes[disk], count)

    def cycle(self, report: CycleReport) -> None:
        with self._changed:
            self._cycles[report.entry.nonce] = report
            self._changed.notify_all()

    def committed(self, record: Record) -> None:
        sent = sum(log.size for disk in record.disks for log in disk.logs)
        with self._changed:
            self.records.append(record)
            if record.is_point:
                # The store's side may have sent it before the machine's side came to tell of it.
                self._changed.wait_for(lambda: record.nonce in self._cycles, 60)
                report = self._cycles.pop(record.nonce)
                before = self.points[-1].record if self.points else None
                point = Point(
                    record,
                    self._age(record),
                    self._age(before) if before else None,
                    report.changed,
                    sent,
                    report.window,
                )
                self.points.append(point)
                self._told.point(point)
            self._changed.notify_all()

    def _age(self, record: Record) -> float:
        return (self._clock.now() - datetime.fromisoformat(record.at)).total_seconds()

    def failed(self, error: StandbyError) -> None:
        self._told.note(f"Not now: {error}")

    def ended(self, error: BaseException | None) -> None:
        with self._changed:
            self.failure = error
            self._changed.notify_all()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Return once the condition holds. Raises DemoFailed, or what ended the engine."""
        with self._changed:
            held = self._changed.wait_for(lambda: self.failure or condition(), PATIENCE)
        if self.failure:
            raise self.failure
        if not held:
            raise DemoFailed(f"waited {PATIENCE:.0f} s for {what}", subject="demo")


class Demo:
    """One run, in a directory of its own: images, store, agent's books, machines' run directories."""

    def __init__(self, folder: Path, cache: Path, told: Told, *, clock: Clock | None = None) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.tests = folder / "tests"
        self._cache = cache
        self._told = told
        self._clock = clock or SystemClock()
        self._host = QemuHost()

    def run(self, keep: bool = False) -> Outcome:
        """Show it all. keep: leave the machines running, for `instructions`. Raises DemoFailed and others."""
        with ExitStack() as stack:
            self._told.phase("Build the guest")
            built = guest.build(self._cache, PLANS)
            self._told.phase("Boot the guest")
            source = self._boot(built)
            if not keep:
                stack.callback(source.discard)
            self._told.note(
                f"{NAME} runs ({self._host.accelerator}) and writes {STAMPS_PER_SECOND} stamps a second to its "
                f"{len(built.disks)} disks: {', '.join(disk.format for disk in built.disks)}"
            )
            began = self._clock.monotonic()
            initial_seconds, events = self._replicate(source, began)
            log = ReplicaLog.read(DirectoryStore(self.store), NAME)
            self._told.phase(f"Test failover of point {log.point().seq}, booted from the store")
            test = self._fail_over()
            if not keep:
                stack.callback(failover.clean_up, test.run, self._host)
            stamps, files = self._check(log, test)
            self._told.phase(f"Verify {len(log.points)} points")
            verified = self._verify(log)
            if not keep:
                self._told.phase("Clean up")
        return Outcome(
            content=sum(disk.content for disk in built.disks),
            initial_sent=sum(
                entry.size
                for record in events.records
                if record.seq <= events.points[0].record.seq
                for disk in record.disks
                for entry in disk.logs
            ),
            initial_seconds=initial_seconds,
            points=tuple(events.points[1:]),
            first_instruction=test.times.first_instruction or 0.0,
            booted=test.times.agent or 0.0,
            stamps=stamps,
            files=files,
            verified_points=len(log.points),
            verified_bytes=verified,
        )

    def end(self) -> None:
        """End what an earlier `run` with `keep` left, and remove its directory. Raises NoRecovery and others."""
        for test in failover.list_tests(self.tests, self._host):
            failover.clean_up(test.run, self._host)
        self._host.find(self.folder / "machine").discard()
        self.remove()

    def remove(self) -> None:
        """Remove the run's directory; its machines have ended."""
        shutil.rmtree(self.folder)

    def _boot(self, built: Guest) -> RunningMachine:
        images = self.folder / "images"
        images.mkdir(parents=True)
        disks = {
            f"disk{index}": DiskImage(disk.copy(images / f"disk{index}.{disk.format}").path, disk.format)
            for index, disk in enumerate(built.disks)
        }
        description = built.describe(NAME, stamps_per_second=STAMPS_PER_SECOND)
        machine = self._host.start(description, disks, built.boot_files, self.folder / "machine")
        machine.wait_booted(BOOT_LIMIT)
        return machine

    def _replicate(self, source: RunningMachine, began: float) -> tuple[float, _Events]:
        """Protect the machine and replicate until enough points are there. Seconds of the initial part."""
        hypervisor = QemuHypervisor({NAME: QemuMachine(qmp=source.qmp, agent=source.agent)})
        store = DirectoryStore(self.store, create=True)
        events = _Events(self._told, self._clock)
        with ExitStack() as stack:
            books = Books(self.folder / "agent")
            stack.callback(books.close)
            request = Request(NAME, NAME, Policy(frequency=FREQUENCY))
            self._told.phase("Enable protection")
            relationship = enable(
                request, books, hypervisor, store, "demo", self._clock, checked=self._told.findings
            )
            events.sizes = {disk.id: disk.size for disk in relationship.disks}
            self._told.phase("Initial replication")
            engine = self._engine(books, relationship, hypervisor, store, events)
            stack.callback(engine.close)
            with _running(engine, events):
                events.wait(lambda: bool(events.points), "initial replication")
                initial = self._clock.monotonic() - began
                self._told.phase(f"Delta replication every {FREQUENCY} s")
                events.wait(lambda: len(events.points) > DELTAS, f"{DELTAS} deltas")
                self._told.phase("An application-consistent point")
                engine.request_application_consistent()
                events.wait(lambda: _consistent(events.points[-1]), "an application-consistent point")
        return initial, events

    def _engine(
        self,
        books: Books,
        relationship: Relationship,
        hypervisor: QemuHypervisor,
        store: DirectoryStore,
        events: _Events,
    ) -> Engine:
        source = Source(books, relationship.id, hypervisor, lambda: hypervisor.describe(NAME), self._clock)
        target = Target(books, relationship.id, store, "demo", self._clock, lambda: str(ULID()))
        return Engine(books, relationship.id, source, target, self._clock, events)

    def _fail_over(self) -> FailoverTest:
        request = failover.Request(str(self.store), NAME, boot_limit=BOOT_LIMIT)
        self.tests.mkdir(exist_ok=True)
        return failover.start(request, self.tests, self._host, clock=self._clock)

    def _check(self, log: ReplicaLog, test: FailoverTest) -> tuple[int, int]:
        """The stamps and files of the booted copy. Raises NotAPrefix, ContentDamaged."""
        at_point = prefix_of_disks([log.image(test.seq, disk.id) for disk in log.point().disks])
        copy = failover.machine(test.run, self._host)
        guest.stop_stamps(copy)
        booted = guest.stamp_prefix(copy)
        if not 0 < at_point <= booted:
            raise DemoFailed(
                f"the copy's disks are as after stamp {booted}, the point was taken after stamp {at_point}",
                subject=test.name,
            )
        files = guest.check_files(copy)
        self._told.note(
            f"The point is exactly the first {at_point} writes on both disks; the booted copy is at {booted}. "
            f"{files} files are intact."
        )
        return at_point, files

    def _verify(self, log: ReplicaLog) -> int:
        verified = 0
        for record in log.points:
            proof = verify_point(log, record)
            for finding in proof.findings:
                raise Damaged(finding.problem, subject=finding.subject)
            verified += proof.bytes
        return verified


def _consistent(point: Point) -> bool:
    return point.record.consistency == Consistency.APPLICATION.value


@contextmanager
def _running(engine: Engine, events: _Events) -> Iterator[None]:
    """The engine runs in a thread of its own until the block ends."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run_alone, engine, SystemClock(), stop)
        future.add_done_callback(lambda done: events.ended(done.exception()))
        try:
            yield
        finally:
            stop.set()
    future.result()
