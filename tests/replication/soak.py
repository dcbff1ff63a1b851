"""The soak: machines that write, crash, stop and grow; one agent that is killed; a store that fails. Seeded.

    python -m tests.replication.soak MINUTES [SEED]      (make soak MINUTES=30)

At the end everything is healed. Then the newest point of every machine must be its disks bit for bit, and every
point the first k writes of its machine, for the same k on each disk, and k never goes back.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from standby.block.nbd import NbdDisk
from standby.errors import StandbyError
from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK, NO_FRAME, PAGE, PAGES_PER_BLOCK
from standby.replica.journal import ReplicaLog
from standby.replica.verify import verify_logs, verify_point
from tests.hypervisor.processes import FORMATS, SIZE, Daemon, contents, stamp, wait_for

MACHINES = {
    "m0": ("qcow", "raw"),
    "m1": ("raw", "vhdx", "qcow"),
    "m2": ("qcow",),
    "m3": ("dynamic", "raw"),
}
"""The disks of each, by the formats of tests.hypervisor.processes."""

GROWTH = 1 << 20
MOST = 16 << 20
IMAGE_EVERY = 25
"""Points between two that are also read as a whole through the product's own image."""


class Guest:
    """Writes numbered pages all over its disks; what they hold after each write is known."""

    def __init__(self, folder: Path, disks: tuple[str, ...], seed: int) -> None:
        self.folder = folder
        self._random = random.Random(seed)
        self._formats = {name: FORMATS[name] for name in disks}
        self.sizes = dict.fromkeys(disks, 0)
        self.log: list[tuple[str, int]] = []
        self._error: StandbyError | None = None
        folder.mkdir()
        self._start()
        for name in disks:
            self._filled(name, SIZE)
        self._write_on()

    def crash(self) -> None:
        """The process is killed while it writes, and starts again."""
        self.daemon.process.kill()
        self._thread.join()
        self.daemon.stop()
        self._start()
        self._write_on()

    def restart(self) -> None:
        self._rest()
        self.daemon.stop()
        self._start()
        self._write_on()

    def grow(self, name: str) -> None:
        """The machine is off for a while, and has a larger disk then."""
        driver = self._formats[name][0]
        if self.sizes[name] >= MOST or driver not in ("raw", "qcow2"):
            return
        self._rest()
        self.daemon.stop()
        size = self.sizes[name] + GROWTH
        image = str(self.folder / f"{name}.img")
        subprocess.run(["qemu-img", "resize", "-q", "-f", driver, image, str(size)], check=True)
        self._start()
        self._filled(name, size)
        self._write_on()

    def end(self) -> None:
        """It writes no more; its process goes on."""
        self._rest()

    def close(self) -> None:
        self._resting.set()
        self._thread.join()
        self.daemon.stop()

    def now(self) -> dict[str, bytearray]:
        found = {}
        for name in self.sizes:
            disk = NbdDisk(self.daemon.nbd, name, connections=1)
            found[name] = contents(disk)
            disk.close()
        return found

    def writes_on(self) -> None:
        """Wait for some more writes."""
        target = len(self.log) + 20
        wait_for(lambda: self._error or len(self.log) >= target, "writes")
        assert self._error is None, self._error

    def expected(self, count: int) -> dict[str, bytearray]:
        return replay({}, self.log[:count], self.sizes, 0)

    def _start(self) -> None:
        self.daemon = Daemon(self.folder, self._formats)
        if self.log:
            name, page = self.log[-1]
            found = self.now()
            if found[name][page * PAGE : (page + 1) * PAGE] != stamp(len(self.log)):
                self.log.pop()  # it was under way and came to nothing
            model = self.expected(len(self.log))
            held = {name: content[: self.sizes[name]] for name, content in found.items()}
            assert held == model, "the machine itself lost writes: the soak cannot judge copies of it"

    def _filled(self, name: str, size: int) -> None:
        """Give every page of the disk content, so that later writes allocate nothing and survive a kill."""
        disk = NbdDisk(self.daemon.nbd, name, connections=1)
        for page in range(self.sizes[name] // PAGE, size // PAGE):
            self.log.append((name, page))
            disk.write(page * PAGE, memoryview(stamp(len(self.log))))
        disk.flush()
        disk.close()
        self.sizes[name] = size

    def _write_on(self) -> None:
        self._error = None
        self._resting = threading.Event()
        disks = {name: NbdDisk(self.daemon.nbd, name, connections=1) for name in self.sizes}
        self._thread = threading.Thread(target=self._write, args=(disks,))
        self._thread.start()

    def _rest(self) -> None:
        self._resting.set()
        self._thread.join()
        assert self._error is None, f"the guest met an error: {self._error}"

    def _write(self, disks: dict[str, NbdDisk]) -> None:
        names = sorted(disks)
        try:
            while not self._resting.wait(self._random.choice((0.0005, 0.002, 0.02))):
                name = self._random.choice(names)
                page = self._random.randrange(self.sizes[name] // PAGE)
                self.log.append((name, page))
                disks[name].write(page * PAGE, memoryview(stamp(len(self.log))))
        except StandbyError as error:
            self._error = error
        for disk in disks.values():
            disk.close()


class Soak:
    def __init__(self, folder: Path, seed: int, machines: dict[str, tuple[str, ...]] = MACHINES) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.did: Counter[str] = Counter()
        self.guests = {
            name: Guest(folder / name, disks, self.random.randrange(1 << 30))
            for name, disks in machines.items()
        }
        self._agent = self._new_agent()

    def run(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            # Sleeping is the load here, not a wait for something.
            time.sleep(self.random.uniform(0.2, 2))
            self._alive()
            guest = self.guests[self.random.choice(sorted(self.guests))]
            event = self.random.choices(
                ("kill the agent", "crash a machine", "restart a machine", "grow a disk"), (10, 3, 2, 2)
            )[0]
            self.did[event] += 1
            if event == "kill the agent":
                self._agent.kill()
                self._agent.wait()
                self._agent = self._new_agent()
            elif event == "crash a machine":
                guest.crash()
            elif event == "restart a machine":
                guest.restart()
            else:
                guest.grow(self.random.choice(sorted(guest.sizes)))
            guest.writes_on()

    def heal(self) -> None:
        """Writers rest, the store is fine, and the agent works until each machine has a point of all this."""
        self._alive()
        self._agent.kill()
        self._agent.wait()
        for guest in self.guests.values():
            guest.end()
        status = self._new_agent("calm").wait(300)
        assert status == 0, (self.folder / "agent-log").read_text()[-6000:]

    def check(self) -> dict[str, int]:
        """Everything above; how many points each machine has."""
        store = DirectoryStore(self.folder / "store")
        promised: dict[str, set[tuple[int, str]]] = {}
        for line in (self.folder / "acknowledged").read_text().splitlines():
            name, seq, nonce = line.split()
            promised.setdefault(name, set()).add((int(seq), nonce))
        points = {}
        for name, guest in self.guests.items():
            log = ReplicaLog.read(store, name)
            lost = promised[name] - {(record.seq, record.nonce) for record in log.records}
            assert not lost, f"{name}: acknowledged records are gone: {lost}"
            assert verify_logs(log).findings == ()
            assert verify_point(log, log.point()).findings == ()
            newest = log.point()
            images = {disk.id: contents(log.image(newest.seq, disk.id)) for disk in newest.disks}
            assert images == guest.now(), f"{name}: the newest point is not the machine"
            check_every_point(name, log, guest)
            points[name] = len(log.points)
            assert guest.daemon.leftovers() == []
            assert len(guest.daemon.bitmaps()) == len(guest.sizes)
        left = [path for path in self.folder.rglob("*.hrl") if "store" not in path.parts]
        assert left == [], "logs that nobody needs any more"
        return points

    def close(self) -> None:
        if self._agent.poll() is None:
            self._agent.kill()
            self._agent.wait()
        for guest in self.guests.values():
            guest.close()

    def errors(self) -> Counter[str]:
        path = self.folder / "errors"
        return (
            Counter(line.split()[0] for line in path.read_text().splitlines()) if path.exists() else Counter()
        )

    def states(self) -> Counter[str]:
        return Counter(line.split(" ", 1)[1] for line in (self.folder / "states").read_text().splitlines())

    def _alive(self) -> None:
        if (status := self._agent.poll()) is not None:
            raise AssertionError(
                f"the agent ended by itself ({status}): {(self.folder / 'agent-log').read_text()[-6000:]}"
            )

    def _new_agent(self, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.replication.soak_agent", str(self.folder)]
        with (self.folder / "agent-log").open("ab") as log:
            return subprocess.Popen(
                [*command, str(self.random.randrange(1 << 30)), *more],
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[2],
            )


def replay(
    images: dict[str, bytearray], writes: list[tuple[str, int]], sizes: dict[str, int], done: int
) -> dict[str, bytearray]:
    """The images after `writes`, the first of which is number done + 1."""
    for name, size in sizes.items():
        held = images.setdefault(name, bytearray())
        held.extend(bytes(size - len(held)))
    for number, (name, page) in enumerate(writes, done + 1):
        images[name][page * PAGE : (page + 1) * PAGE] = stamp(number)
    return images


def check_every_point(name: str, log: ReplicaLog, guest: Guest) -> None:
    """Apply the records' logs one after the other; at each point the disks are the first k writes."""
    held: dict[str, bytearray] = {}
    expected: dict[str, bytearray] = {}
    done = seen = 0
    for record in log.records:
        for disk in record.disks:
            content = held.setdefault(disk.id, bytearray())
            content.extend(bytes(disk.size - len(content)))
            for reference in disk.logs:
                apply(content, log, reference)
        if not record.is_point:
            continue
        seen += 1
        where = f"{name}, point {record.seq}"
        newest = max(int(np.frombuffer(content, "<u8")[:: PAGE // 8].max()) for content in held.values())
        assert newest >= done, f"{where} went back from write {done} to {newest}"
        expected = replay(expected, guest.log[done:newest], guest.sizes, done)
        done = newest
        for disk in record.disks:
            content = held[disk.id]
            assert content == expected[disk.id][: disk.size], (
                f"{where}, {disk.id}: not as after write {newest}"
            )
            if seen % IMAGE_EVERY == 0:
                assert contents(log.image(record.seq, disk.id)) == content, f"{where}, {disk.id}: its image"


def apply(content: bytearray, log: ReplicaLog, reference) -> None:
    """Put the pages of a log in their places: what docs/format.md 3 says, read a second way."""
    reader = log.open_log(reference)
    for row in reader.all_rows():
        present, zero, position = int(row["present"]), int(row["zero"]), int(row["position"])
        pages = reader.frame(int(row["frame"])) if row["frame"] != NO_FRAME else b""
        for page in range(PAGES_PER_BLOCK):
            if not present >> page & 1:
                continue
            at = int(row["block"]) * BLOCK + page * PAGE
            if zero >> page & 1:
                content[at : at + PAGE] = bytes(PAGE)
            else:
                content[at : at + PAGE] = pages[position * PAGE : (position + 1) * PAGE]
                position += 1


def main() -> None:
    minutes = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(1 << 30)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"soak of {minutes:g} min, seed {seed}, in {folder}", flush=True)  # noqa: T201
    soak = Soak(folder, seed)
    try:
        soak.run(minutes * 60)
        soak.heal()
        points = soak.check()
    finally:
        soak.close()
        print(f"did {dict(soak.did)}\nerrors {dict(soak.errors())}", flush=True)  # noqa: T201
    print(f"states {dict(soak.states())}\nright to the bit: points {points}")  # noqa: T201


if __name__ == "__main__":
    main()
