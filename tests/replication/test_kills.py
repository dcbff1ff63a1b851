"""The stamp test: agents are killed -9 at every named step and at random ones, under a writing machine."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from standby.objects.directory import DirectoryStore
from standby.replica.journal import ReplicaLog
from standby.replica.keys import KeyFile
from standby.replica.verify import verify_logs, verify_point
from tests.hypervisor.processes import FORMATS, PAGE, SIZE, Daemon, StandInAgent, Writer, stamp

pytestmark = pytest.mark.slow

RANDOM_KILLS = 200
KILLED, DONE = -9, 0
DISKS = {name: FORMATS[name] for name in ("vhdx", "qcow", "raw")}


class Agents:
    """Agents of one machine, one life after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.replication.zygote", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.failpoints = json.loads(self._process.stdout.readline())

    def live(self, failpoint: str = "", *, points: int = 1, application: bool = False) -> int:
        order = {"failpoint": failpoint, "points": points, "application": application}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)


@pytest.fixture
def machine(tmp_path):
    """A storage daemon, a writer on its disks, a stand-in for the guest agent, and agents to kill."""
    daemon = Daemon(tmp_path, DISKS)
    guest_agent = StandInAgent(tmp_path / "guest-agent")
    agents = Agents(tmp_path)
    with Writer(daemon, pause=0.001) as writer:
        writer.more()
        yield daemon, writer, agents
    agents.close()
    guest_agent.close()
    daemon.stop()


def check(folder: Path, daemon: Daemon, writer: Writer) -> int:
    """Every acknowledged point is there; every point is one instant; nothing is left over. How many points."""
    assert writer.error is None
    key = KeyFile(folder / "key") if (folder / "key").exists() else None
    log = ReplicaLog.read(DirectoryStore(folder / "store"), "vm", key=key)
    assert log.head.encrypted is (key is not None)
    there = {(record.seq, record.nonce) for record in log.records}
    for line in (folder / "acknowledged").read_text().splitlines():
        seq, nonce = line.split()
        assert (int(seq), nonce) in there, f"acknowledged record {seq} is gone"
    assert verify_logs(log).findings == ()
    assert verify_point(log, log.point()).findings == ()
    expected = {name: bytearray(SIZE) for name in DISKS}
    done = 0
    for point in log.points:
        images = {name: bytearray(SIZE) for name in DISKS}
        for name, content in images.items():
            log.image(point.seq, name).read(0, memoryview(content))
        count = max(int(np.frombuffer(content, "<u8")[:: PAGE // 8].max()) for content in images.values())
        assert count >= done, f"point {point.seq} went back"
        for number, (name, page) in enumerate(writer.log[done:count], done + 1):
            expected[name][page * PAGE : (page + 1) * PAGE] = stamp(number)
        done = count
        for name, content in images.items():
            assert content == expected[name], f"point {point.seq}, disk {name} is not as after write {count}"
    assert list(second(folder, log, key)) == []
    assert daemon.leftovers() == []
    assert len(daemon.bitmaps()) == len(DISKS)
    assert list((folder / "spool").iterdir()) == []
    assert not (folder / "rescanned").exists(), "a disk was read whole where its changes were known"
    return len(log.points)


def second(folder: Path, log: ReplicaLog, key: KeyFile | None) -> Iterator[str]:
    """What is wrong with the second target: its points are the first one's, bit for bit, and the newest is."""
    twin = ReplicaLog.read(DirectoryStore(folder / "second"), "vm", key=key)
    yield from map(str, verify_logs(twin).findings)
    first = {point.nonce: point for point in log.points}
    has = [point.nonce for point in twin.points]
    assert [point.nonce for point in log.points if point.nonce in has] == has
    assert has[-1] == log.points[-1].nonce
    for point in twin.points:
        for name in DISKS:
            ours, theirs = bytearray(SIZE), bytearray(SIZE)
            twin.image(point.seq, name).read(0, memoryview(ours))
            log.image(first[point.nonce].seq, name).read(0, memoryview(theirs))
            if ours != theirs:
                yield f"point {point.seq}, disk {name}"


PHASES = (
    "directory.create",
    "directory.put.",
    "directory.delete",
    "enable",
    "attach",
    "target",
    "recover",
    "source",
)
"""What is passed through only before a machine is protected, in order; a life that ends before its failpoint
would leave all this behind."""

ELSEWHERE = {
    "directory.put_file.copied": "a spool on another file system: tests/objects",
    "rounds.dropped": "tracking is lost: test_resync",
    "follow.promoted": "a target that is away for long: test_targets",
}
"""Failpoints that no life of these agents passes, and where they are."""


def in_order(failpoints: list[str]) -> list[str]:
    noted = "source.loss_noted"  # once it is passed, rounds have begun for good
    early = [name for phase in PHASES for name in failpoints if name.startswith(phase) and name != noted]
    then = ["rounds.begun", noted, *(name for name in failpoints if name.startswith("scan"))]
    return early + then + [name for name in failpoints if name not in early + then]


def test_an_agent_is_killed_at_every_named_step(tmp_path, machine):
    """Of an encrypted replica; at random steps it is of another."""
    daemon, writer, agents = machine
    KeyFile.new(tmp_path / "key")
    missed = []
    for failpoint in in_order(agents.failpoints):
        status = agents.live(f"{failpoint}=kill", application=True)
        assert status in (KILLED, DONE), failpoint
        if status == DONE:
            missed.append(failpoint)
    assert agents.live() == DONE
    check(tmp_path, daemon, writer)
    assert sorted(missed) == sorted(ELSEWHERE)


@pytest.mark.timeout(1200)
def test_an_agent_is_killed_at_random_steps(tmp_path, machine):
    daemon, writer, agents = machine
    rng = random.Random(20261124)
    once = [
        name
        for name in agents.failpoints
        if name.startswith((*PHASES[:4], "target", "scan", "source.begun", "source.loss_noted"))
    ]
    often = [name for name in agents.failpoints if name not in (*once, *ELSEWHERE, "rounds.begun")]
    kills = 0
    while kills < RANDOM_KILLS:
        early = not (tmp_path / "protected").exists() and kills < 20
        failpoint = rng.choice(once + often if early else often)
        status = agents.live(f"{failpoint}=kill@{rng.randint(1, 2)}", application=rng.random() < 0.3)
        assert status in (KILLED, DONE), failpoint
        kills += status == KILLED
    assert agents.live() == DONE
    assert check(tmp_path, daemon, writer) > RANDOM_KILLS / 10
