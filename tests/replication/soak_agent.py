"""The agent of the soak: one process for all machines, on a store that fails at random, ended by SIGKILL.

    python -m tests.replication.soak_agent FOLDER SEED [calm]

Machines are the directories FOLDER/m*. Its clock runs SPEED times faster than the real one, so that intervals and
waits of minutes pass in seconds. `calm`: the store does not fail; ends with status 0 once all machines have a point
cut after it began. What was committed is appended to FOLDER/acknowledged, errors to FOLDER/errors.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ulid import ULID

from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.objects.base import (
    Conflict,
    Entry,
    Object,
    ObjectStore,
    StoreFull,
    StoreRefused,
    StoreUnreachable,
    Version,
)
from standby.objects.directory import DirectoryStore
from standby.objects.layers import Layer
from standby.replica.journal import ReplicaLog
from standby.replication import precopy, source
from standby.replication.books import Books
from standby.replication.enable import Request, enable
from standby.replication.engine import Engine
from standby.replication.policy import Policy
from standby.replication.relationship import Side
from standby.replication.runner import Runner
from standby.replication.source import Source
from standby.replication.states import State
from standby.replication.target import Target
from tests.hypervisor.processes import SMALL
from tests.replication.rig import Recorder

SPEED = 30
WEATHER = ("fine", "fine", "refused", "slow", "answers lost", "full", "read-only")
CALM_LIMIT = 150.0


ORIGIN = 1764000000
"""Some time before every soak, in seconds since 1970; agents of one soak have the same."""


class FastClock:
    """SPEED seconds pass in one, and the time of one agent goes on in the next."""

    def now(self) -> datetime:
        return datetime(2026, 11, 1, tzinfo=UTC) + timedelta(seconds=(time.time() - ORIGIN) * SPEED)

    def monotonic(self) -> float:
        return time.monotonic() * SPEED


class Unreliable(Layer):
    """Fails as its weather says, which another thread changes."""

    def __init__(self, inner: ObjectStore, rng: random.Random) -> None:
        super().__init__(inner)
        self.weather = "fine"
        self._rng = rng
        self._lock = threading.Lock()

    def _chance(self) -> float:
        with self._lock:
            return self._rng.random()

    def _call(self, what: str, call: Callable[[], object], *, writes: bool = False) -> object:
        weather = self.weather
        if weather == "refused":
            raise StoreUnreachable("injected: nobody listens", subject=what)
        if weather == "slow":
            time.sleep(self._chance() * 0.3)
        if writes and weather == "full":
            raise StoreFull("injected: no space", subject=what)
        if writes and weather == "read-only":
            raise StoreRefused("injected: read-only", subject=what)
        answer = call()
        if weather == "answers lost" and self._chance() < 0.3:
            raise StoreUnreachable("injected: the answer is lost", subject=what)
        return answer

    def put(self, name: str, data: bytes | memoryview) -> None:
        self._call(name, lambda: self.inner.put(name, data), writes=True)

    def put_file(self, name: str, path: Path) -> None:
        self._call(name, lambda: self.inner.put_file(name, path), writes=True)

    def put_if_absent(self, name: str, data: bytes) -> Version | Conflict:
        return self._call(name, lambda: self.inner.put_if_absent(name, data), writes=True)

    def swap(self, name: str, data: bytes, old: Version) -> Version | Conflict:
        return self._call(name, lambda: self.inner.swap(name, data, old), writes=True)

    def get(self, name: str) -> Object:
        return self._call(name, lambda: self.inner.get(name))

    def get_if_changed(self, name: str, known: Version) -> Object | None:
        return self._call(name, lambda: self.inner.get_if_changed(name, known))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._call(name, lambda: self.inner.get_range(name, offset, length))

    def size(self, name: str) -> int:
        return self._call(name, lambda: self.inner.size(name))

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        return self._call(prefix, lambda: self.inner.list(prefix, after=after))

    def delete(self, name: str) -> None:
        self._call(name, lambda: self.inner.delete(name), writes=True)


class Witness(Recorder):
    """Writes down at once what counts as promised, and what went wrong."""

    def __init__(self, folder: Path, machine: str, clock: FastClock) -> None:
        super().__init__()
        self._folder, self._machine, self._clock = folder, machine, clock
        self.newest = ""

    def committed(self, record):
        _append(self._folder / "acknowledged", f"{self._machine} {record.seq} {record.nonce}")
        if record.is_point:
            self.newest = record.at

    def failed(self, error):
        text = str(error).replace("\n", " ")
        _append(self._folder / "errors", f"{type(error).__name__} {self._machine}: {text}")

    def state(self, state):
        _append(self._folder / "states", f"{self._machine} {state.value}")

    def scanned(self, disk, count):
        pass

    def cycle(self, report):
        pass


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def main(folder: Path, seed: int, *, calm: bool) -> None:
    # Small steps, so that scans have many.
    source.SCAN_LOG = source.SCAN_STEP = source.SCAN_READ = 1 << 20
    precopy.WORTH = 64 << 10  # so that pre-copy is part of it
    rng = random.Random(seed)
    clock = FastClock()
    books = Books(folder / "agent")
    outer = DirectoryStore(folder / "store", create=True)
    store = Unreliable(outer, rng)
    names = sorted(path.name for path in folder.glob("m*"))
    places = {name: QemuMachine(qmp=folder / name / "qmp", nbd=folder / name / "served") for name in names}
    hypervisor = QemuHypervisor(places, limits=SMALL)
    ended: list[str] = []
    stop = threading.Event()

    def failed(engine: Engine, error: Exception) -> None:
        ended.append("".join(traceback.format_exception(error)))
        stop.set()

    runner = Runner(clock, failed)
    engines: dict[str, tuple[Engine, Witness]] = {}

    def begin() -> None:
        """Enable what is not yet enabled; a machine that is away is left for the next time."""
        for number, name in enumerate(names):
            if name in engines:
                continue
            known = {one.machine: one for one in books.relationships()}
            if name not in known or known[name].status.state is State.NEW:
                policy = Policy(frequency=30, reserve=0, backlog_percent=(50, 10, 100)[number % 3])
                spool = folder / f"spool-{name}" if number % 2 else None
                if spool:
                    spool.mkdir(exist_ok=True)
                wanted = Request(name, name, policy, spool=str(spool or ""))
                known[name] = enable(wanted, books, hypervisor, store, "host-a", clock)
            identity = known[name].id
            witness = Witness(folder, name, clock)
            engine = Engine(
                books,
                identity,
                Source(books, identity, hypervisor, lambda name=name: hypervisor.describe(name), clock),
                Target(books, identity, store, "agent@host-a", clock, lambda: str(ULID())),
                clock,
                witness,
            )
            engines[name] = engine, witness
            runner.add(engine)

    began = clock.now().isoformat()
    begin()
    threading.Thread(target=runner.run, args=(stop,), daemon=True).start()
    deadline = time.monotonic() + CALM_LIMIT
    while not stop.wait(0.5 if calm else rng.uniform(0.5, 3)):
        store.weather = "fine" if calm else rng.choice(WEATHER)
        for engine, _ in engines.values():
            # The operator: whatever waits for a person is tried again.
            relationship = books.get(engine.id)
            if any((one := relationship.trouble(side)) and one.retry_at is None for side in Side):
                engine.retry_now()
            # Paused here, or by an agent that was killed since.
            if relationship.status.state is State.PAUSED:
                engine.resume()
            elif not calm and rng.random() < 0.05:
                engine.pause()
        if calm and all(_done(books, engine, witness, began) for engine, witness in engines.values()):
            stop.set()
            break
        if calm and time.monotonic() > deadline:
            ended.append(
                f"not healed within {CALM_LIMIT:g} s: {[_told(books, e) for e, _ in engines.values()]}"
            )
            break
    for name, (engine, _) in engines.items():
        runner.remove(engine)
        if not ended:
            engine.close()
            ReplicaLog.read(outer, name)
    if ended:
        print("\n".join(ended), file=sys.stderr, flush=True)  # noqa: T201
        os._exit(3)
    os._exit(0)


def _done(books: Books, engine: Engine, witness: Witness, began: str) -> bool:
    relationship = books.get(engine.id)
    healthy = relationship.status.state in (State.PROTECTED, State.DELTA) and not relationship.scanning
    return healthy and witness.newest > began and not books.queued(engine.id).length


def _told(books: Books, engine: Engine) -> object:
    one = books.get(engine.id)
    return one.machine, one.status, one.error, books.queued(engine.id).length, one.disks


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), calm=sys.argv[3:] == ["calm"])
