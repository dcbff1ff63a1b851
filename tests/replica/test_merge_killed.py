"""A merge and a sweep killed -9 at every failpoint, and beside a live writer and readers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from standby import failpoints
from standby.errors import Recoverable
from standby.replica.documents import DiskState, LogReference
from standby.replica.format import ALL_PAGES, BLOCK, ZERO_BLOCK_HASH, LogHeader
from standby.replica.journal import Place, ReplicaLog, hold
from standby.replica.log import LogWriter
from standby.replica.pack import pack, zero_rows
from standby.replica.sweep import sweep
from standby.replica.writer import Draft
from tests.replica.test_merge import Replica, objects
from tests.support.replicas import REPLICA, ModelDisk, new_id, new_log_id, read_whole

pytestmark = pytest.mark.slow

# failpoint, the n-th time, points to be opened right afterwards
KILLS = [
    ("merge.planned", 1, {2, 3, 4, 5, 6, 7, 8, 9, 10, 11}),
    ("merge.layer_sealed", 1, {2, 3, 4, 5, 6, 7, 8, 9, 10, 11}),
    ("merge.layer_put", 1, {2, 3, 4, 5, 6, 7, 8, 9, 10, 11}),
    ("merge.layer_put", 2, {2, 3, 4, 5, 6, 7, 8, 9, 10, 11}),
    ("merge.head_swapped", 1, {4, 8, 11}),
    ("sweep.head_swapped", 1, {4, 8, 11}),
    ("sweep.log_deleted", 1, {4, 8, 11}),
    ("sweep.log_deleted", 5, {4, 8, 11}),
    ("sweep.layer_deleted", 1, {4, 8, 11}),
    ("sweep.proof_deleted", 1, {4, 8, 11}),
    ("sweep.proof_deleted", 3, {4, 8, 11}),
    ("sweep.record_deleted", 1, {4, 8, 11}),
    ("sweep.record_deleted", 4, {4, 8, 11}),
]


def built(folder: Path) -> Replica:
    replica = Replica(folder)
    disk = ModelDisk("vda", 12 * BLOCK)
    for number in range(10):
        disk.write(number * BLOCK, random.Random(number).randbytes(BLOCK))
        disk.write(11 * BLOCK, bytes([65 + number]) * 100)
        replica.point(disk)
    return replica


def run(replica: Replica, keep: set[int], failpoint: str = "") -> int:
    arguments = [str(replica.store.url), str(replica.scratch), *map(str, sorted(keep))]
    return subprocess.run(
        [sys.executable, "-m", "tests.replica.merging_child", *arguments],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "STANDBY_FAILPOINT": failpoint},
        timeout=60,
        check=False,
    ).returncode


@pytest.mark.parametrize(("failpoint", "nth", "stays"), KILLS)
def test_killed(tmp_path, failpoint, nth, stays):
    replica = built(tmp_path)
    # An orphan, so that the sweep has a layer to delete.
    replica.store.put("web/layers/run/0.hrl", b"left behind")
    # Of points that go and of points that stay.
    for seq in range(2, 9):
        replica.store.put(f"web/proofs/{seq:020d}/{'0' * 26}/screen.png", b"a picture")
    assert run(replica, {4, 8, 11}, f"{failpoint}=kill@{nth}") == -signal.SIGKILL
    replica.check(stays=stays)
    replica.attach()
    disk = ModelDisk("vda", 12 * BLOCK)
    disk.content[:] = replica.truth[11]["vda"]
    disk.write(3, b"after the kill")
    newest = replica.point(disk)
    assert run(replica, {4, 8, newest}) == 0
    replica.check(stays={4, 8, newest})
    assert sweep(replica.store, "web").logs == 0
    log = ReplicaLog.read(replica.store, "web")
    assert objects(replica, "layers") == len(log.head.layers) == 3
    assert objects(replica, "logs") == 0
    assert objects(replica, "proofs") == 2
    assert objects(replica, "points") == len(log.records)


def test_every_failpoint_is_killed_at():
    declared = {name for name in failpoints.declared() if name.startswith(("merge.", "sweep."))}
    assert declared == {name for name, _, _ in KILLS}


def test_beside_a_live_writer_and_readers(tmp_path):
    """One writer, two mergers that sweep, two readers; every point that a reader holds reads as it was."""
    replica = built(tmp_path)
    place = Place(replica.store, "web")
    wrong: list[BaseException] = []
    over = threading.Event()
    read, merged = [0, 0], [0, 0]

    def guarded(work) -> threading.Thread:
        def loop() -> None:
            try:
                while not over.is_set():
                    work()
            except BaseException as error:
                wrong.append(error)
                over.set()

        thread = threading.Thread(target=loop)
        thread.start()
        return thread

    def reader(number: int):
        choice = random.Random(number)

        def work() -> None:
            seq = choice.choice(ReplicaLog.read(replica.store, "web").points).seq
            with hold(place, seq, f"reader {number}"):
                log = ReplicaLog.read(replica.store, "web")
                if seq not in {point.seq for point in log.points}:
                    return  # merged away before the hold
                image = log.image(seq, "vda")
                assert read_whole(image.read, image.size) == replica.truth[seq]["vda"]
                read[number] += 1

        return work

    def maintenance(number: int):
        choice = random.Random(10 + number)
        scratch = tmp_path / f"scratch-{number}"
        scratch.mkdir()

        def work() -> None:
            try:
                result = replica.merge(
                    lambda log: {p.seq for p in log.points if choice.random() < 0.5}, scratch=scratch
                )
                merged[number] += len(result.ranges)
            except Recoverable:
                pass  # the other merger was faster, five times
            sweep(replica.store, "web")

        return work

    threads = [guarded(reader(0)), guarded(reader(1)), guarded(maintenance(0)), guarded(maintenance(1))]
    disk = ModelDisk("vda", 12 * BLOCK)
    disk.content[:] = replica.truth[11]["vda"]
    rng = random.Random(5)
    for number in range(60):
        if over.is_set():
            break
        if number % 20 == 19:
            replica.attach()
        disk.write(rng.randrange(11 * BLOCK), rng.randbytes(3000))
        expected = replica.writer.tail.seq + 1
        replica.truth[expected] = {"vda": disk.bytes}
        assert replica.point(disk) == expected
    over.set()
    for thread in threads:
        thread.join(60)
    assert not wrong, wrong
    assert min(read) > 0
    assert sum(merged) > 0
    sweep(replica.store, "web")
    replica.check()
    log = ReplicaLog.read(replica.store, "web")
    assert objects(replica, "layers") == len(log.head.layers)


def test_a_disk_of_a_tebibyte_is_folded_in_512_mebibytes(tmp_path):
    """Every block of it is in a log, and every 256th has data; first between points, then into the floor."""
    replica = Replica(tmp_path)
    size = 1 << 40
    blocks = np.arange(size >> 16, dtype=np.uint32)

    def scanned(part: npt.NDArray[np.uint32]) -> LogReference:
        writer = LogWriter(replica.spool / "log", LogHeader(REPLICA, new_log_id(), "vda", size))
        data = part[::256]
        writer.append(memoryview(b""), zero_rows(np.setdiff1d(part, data)))
        content = np.zeros((len(data), BLOCK), np.uint8)
        content[:, :7] = np.frombuffer(b"content", np.uint8)
        known = np.full(len(data), np.void(ZERO_BLOCK_HASH), "V16")
        masks = np.full(len(data), ALL_PAGES, np.uint16)
        for frame in pack(data, content, masks, known, np.ones(len(data), bool)):
            writer.append(frame.pages, frame.rows)
        reference = replica.writer.upload(writer.seal())
        (replica.spool / "log").unlink()
        return reference

    def commit(logs: tuple[LogReference, ...]) -> int:
        disks = (DiskState(id="vda", size=size, logs=logs),)
        draft = Draft(kind="point", nonce=new_id(), at="2026-11-24T08:00:00+00:00", disks=disks)
        return replica.writer.commit(draft).seq

    first = commit(())
    commit(tuple(scanned(part) for part in np.split(blocks, 64)))
    last = commit((scanned(blocks[: 1 << 16]),))
    assert peak(replica, {first, last}) < 512
    log = ReplicaLog.read(replica.store, "web")
    assert len(log.head.layers) == 64
    assert peak(replica, {last}) < 512
    log = ReplicaLog.read(replica.store, "web")
    assert len(log.head.layers) == 256
    image = log.image(last, "vda")
    for block in (0, 1, 256, (size >> 16) - 256, (size >> 16) - 1):
        content = bytearray(BLOCK)
        image.read(block << 16, memoryview(content))
        assert content == (b"content" if block % 256 == 0 else b"").ljust(BLOCK, b"\0")


def peak(replica: Replica, keep: set[int]) -> int:
    """The peak memory, in MiB, of a process that merges and sweeps."""
    arguments = [str(replica.store.url), str(replica.scratch), *map(str, sorted(keep))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.replica.merging_child", *arguments],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return int(done.stdout)
