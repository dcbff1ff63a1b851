"""What is flagged, by table; and on a real file system with real changes: what is flagged there, and what is not."""

from __future__ import annotations

import random
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest

from standby.replica import plan, suspicion
from standby.replica.documents import Record
from standby.replica.journal import ReplicaLog
from standby.replica.suspicion import GROWN_USUAL, LEAST_HISTORY, Change, judge
from tests.replica.test_merge import Replica
from tests.support.replicas import REPLICA, ModelDisk, commit_point

MIB = 1 << 20


def usual(count: int, ratio: float = 0.3, raw: int = MIB) -> list[Change]:
    """A machine's quiet life, a little different each time."""
    rng = random.Random(count)
    amounts = [int(raw * rng.uniform(0.5, 2)) for _ in range(count)]
    return [
        Change(seq, amount, int(amount * ratio * rng.uniform(0.9, 1.1))) for seq, amount in enumerate(amounts)
    ]


def after(history: list[Change], *changes: tuple[int, float]) -> list[Change]:
    first = len(history)
    return history + [Change(first + at, raw, int(raw * ratio)) for at, (raw, ratio) in enumerate(changes)]


@pytest.mark.parametrize(
    ("changes", "rewritten", "flagged"),
    [
        (after(usual(40), (64 * MIB, 1.0)), None, [40]),
        (after(usual(40), (64 * MIB, 1.0)), 0.9, [40]),
        (after(usual(40), (64 * MIB, 1.0)), 0.1, []),  # new photos lie where nothing was
        (after(usual(40), (64 * MIB, 0.4)), None, []),  # much, and compressible: a database is loaded
        (after(usual(40), (2 * MIB, 1.0)), None, []),  # incompressible, and little
        (after(usual(40), (5 * MIB, 1.0)), None, []),  # no more than this machine may write
        (after(usual(LEAST_HISTORY - 1), (64 * MIB, 1.0)), None, []),
        (after(usual(LEAST_HISTORY), (64 * MIB, 1.0)), None, [LEAST_HISTORY]),
        (after(usual(40, ratio=0.97), (640 * MIB, 1.0)), None, []),  # a machine that stores photos all day
        (after(usual(40, raw=200 * MIB), (300 * MIB, 1.0)), None, []),  # a machine that writes much anyway
        (after(usual(40), *[(64 * MIB, 1.0)] * 5), None, [40, 41, 42, 43, 44]),
        (
            after([Change(seq, 0, 0) for seq in range(40)], (64 * MIB, 1.0)),
            None,
            [40],
        ),  # one that never wrote
        ([], None, []),
    ],
)
def test_a_point_is_flagged_against_its_machines_own_history(changes, rewritten, flagged):
    found = judge(changes, lambda _seq: rewritten)
    assert sorted(found) == flagged
    for one in found.values():
        assert "times the usual amount of changes, compressed to 100%" in str(one)


def test_what_lasts_becomes_usual():
    changes = after(usual(40), *[(64 * MIB, 1.0)] * 200)
    found = judge(changes)
    assert min(found) == 40
    assert GROWN_USUAL <= len(found) < 2 * GROWN_USUAL + suspicion.WINDOW
    assert not judge(changes[-150:])


def test_the_newest_point_that_is_not_flagged_is_chosen():
    records = [
        Record(replica=REPLICA, seq=seq, epoch=1, kind="point", nonce="", parent="", at="", writer="")
        for seq in range(2, 9)
    ]  # fmt: skip
    assert plan.choose_point(records, "newest-unflagged", "web").seq == 8
    assert plan.choose_point(records, "newest-unflagged", "web", lambda: {8: "", 7: "", 3: ""}).seq == 6


class FileSystem:
    """An ext4 file system on a disk that is replicated; changed by e2fsprogs, as no kernel may mount it here."""

    def __init__(self, folder: Path, size: int) -> None:
        self.image = folder / "disk.img"
        self.replica = Replica(folder)
        self.disk = ModelDisk("vda", size)
        self.folder = folder
        self._count = 0
        tree = folder / "tree"
        tree.mkdir()
        for number, source in enumerate(sorted(Path("/usr/lib/python3").parent.glob("python3.*/*.py"))[:160]):
            (tree / f"{number}-{source.name}").write_bytes(source.read_bytes())
        log = "\n".join(lines(random.Random(0), 120_000))
        (tree / "old.log").write_text(log)
        subprocess.run(["truncate", "-s", str(size), self.image], check=True)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, self.image], check=True)

    def point(self) -> int:
        new = np.fromfile(self.image, np.uint8).reshape(-1, 4096)
        old = np.frombuffer(self.disk.content, np.uint8).reshape(-1, 4096)
        for page in np.flatnonzero((new != old).any(axis=1)).tolist():
            self.disk.write(page * 4096, new[page].tobytes())
        return commit_point(self.replica.writer, [self.disk], self.replica.spool).seq

    def write(self, name: str, data: bytes) -> None:
        path = self.folder / "incoming"
        path.write_bytes(data)
        self.do(f"write {path} {name}")

    def do(self, *commands: str) -> str:
        script = "\n".join(commands) + "\n"
        done = subprocess.run(
            ["debugfs", "-w", "-f", "-", self.image], input=script, capture_output=True, text=True, check=True
        )
        return done.stdout

    def a_usual_point(self) -> int:
        self._count += 1
        rng = random.Random(self._count)
        self.write(f"log.{self._count}", "\n".join(lines(rng, rng.randrange(2_000, 12_000))).encode())
        return self.point()

    def files(self) -> list[str]:
        return [word for word in self.do("ls -p").split("/") if word.endswith((".py", ".log"))]

    def overwrite(self, names: list[str], rng: random.Random) -> None:
        """Encrypted in place, block by block."""
        asked = [f"blocks {name}" for name in names]
        blocks = [
            int(word)
            for line in self.do(*asked).splitlines()
            if "debugfs" not in line
            for word in line.split()
        ]
        with self.image.open("r+b") as file:
            for block in blocks:
                file.seek(block * 4096)
                file.write(rng.randbytes(4096))


def lines(rng: random.Random, count: int) -> list[str]:
    return [
        f"2026-11-24T{rng.randrange(24):02}:{rng.randrange(60):02} host app[{rng.randrange(9999)}]: "
        f"request {rng.getrandbits(48):012x} took {rng.randrange(4000)} ms, status {rng.choice((200, 304, 404, 500))}"
        for _ in range(count)
    ]


@pytest.mark.slow
def test_on_a_real_file_system(tmp_path):
    rng = random.Random(5)
    system = FileSystem(tmp_path, 84 * MIB)
    system.point()
    for _ in range(14):
        system.a_usual_point()
    events: dict[str, int] = {}

    database = tmp_path / "shop.db"
    with sqlite3.connect(database) as connection:
        connection.execute(
            "create table orders (id integer primary key, customer text, item text, amount real)"
        )
        rows = (
            (f"customer {rng.randrange(9000)}", rng.choice(("book", "lamp", "chair")), rng.random())
            for _ in range(120_000)
        )
        connection.executemany("insert into orders (customer, item, amount) values (?, ?, ?)", rows)
    system.write("shop.db", database.read_bytes())
    events["a database restored"] = system.point()
    system.a_usual_point()

    libraries = sorted(Path("/usr/lib/x86_64-linux-gnu").glob("lib*.so.*"), key=lambda path: path.name)
    upgrade = b"".join(path.read_bytes() for path in libraries[:80] if not path.is_symlink())[: 6 * MIB]
    system.write("package", upgrade)
    events["a package unpacked"] = system.point()
    system.a_usual_point()

    for number in range(3):
        system.write(f"photo.{number}", rng.randbytes(3 * MIB))
    events["photos copied onto free space"] = system.point()
    system.a_usual_point()

    system.do(*(f"rm photo.{number}" for number in range(3)))
    system.point()
    for number in range(3):
        system.write(f"more.{number}", rng.randbytes(3 * MIB))
    events["photos copied onto space of deleted ones"] = system.point()
    system.a_usual_point()

    names = system.files()
    sizes = {name: rng.randrange(200, 900) * 1024 for name in names[:10]}
    for name, size in sizes.items():
        system.write(f"{name}.locked", rng.randbytes(size))
    system.do(*(f"rm {name}" for name in sizes))
    events["copies encrypted, originals deleted"] = system.point()

    encrypted = []
    for part in (names[10::2], names[11::2]):
        system.overwrite(part, rng)
        encrypted.append(system.point())

    log = ReplicaLog.read(system.replica.store, "web")
    flagged = log.flagged()
    told = {seq: f"{change.raw / MIB:.1f} MiB, {change.ratio:.2f}" for seq, change in
            ((point.seq, Change.of(point)) for point in log.points)}  # fmt: skip
    for event, seq in events.items():
        print(f"{event}: {told[seq]}: {flagged.get(seq, 'not flagged')}")  # noqa: T201
    # The first point already, and every one.
    assert set(encrypted) <= set(flagged)
    # What the decision record says of it: space that held photos before cannot be told from photos encrypted in place.
    assert set(flagged) - set(encrypted) == {events["photos copied onto space of deleted ones"]}
    assert log.point("newest-unflagged").seq == events["copies encrypted, originals deleted"]
