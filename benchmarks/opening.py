"""What opening the newest point costs with every point of a day there, and after retention folded them.

    .venv/bin/python benchmarks/opening.py [POINTS] [MILLISECONDS]

One disk of 64 GiB, of which a scan stored 1 GiB; each point changes a page of 20 blocks. Opening means: head,
chain, every log's tail and the index of the region of one block, and that block. Once on the bare directory store,
and once with so many milliseconds (20) added to each request, as to an object store. Prints also what folding costs.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from standby.objects.base import Entry, Object
from standby.objects.directory import DirectoryStore
from standby.objects.layers import Layer
from standby.replica.documents import DiskState
from standby.replica.format import ALL_PAGES, BLOCK, PAGE, ZERO_BLOCK_HASH, LogHeader
from standby.replica.journal import ReplicaLog
from standby.replica.log import LogWriter, SealedLog
from standby.replica.merge import floor_only, merge
from standby.replica.merge_plan import AT_ONCE
from standby.replica.pack import pack
from standby.replica.retention import decide, parse_tier
from standby.replica.sweep import sweep
from standby.replica.writer import Draft, Writer, attach, create
from tests.support.replicas import REPLICA, FixedClock, new_id, new_log_id

SIZE = 64 << 30
BASE_BLOCKS = 16_384
EVERY = timedelta(seconds=43)


class Far(Layer):
    """Counts requests for reading, and lets each take a while."""

    delay = 0.0

    def __init__(self, inner: DirectoryStore) -> None:
        super().__init__(inner)
        self._lock = threading.Lock()
        self.requests = 0

    def _asked(self) -> None:
        with self._lock:
            self.requests += 1
        if self.delay:
            time.sleep(self.delay)

    def get(self, name: str) -> Object:
        self._asked()
        return self.inner.get(name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._asked()
        return self.inner.get_range(name, offset, length)

    def list(self, prefix: str, *, after: str = "") -> Iterator[Entry]:
        entries = list(self.inner.list(prefix, after=after))
        for _ in range(-(-len(entries) // 1000)):
            self._asked()
        return iter(entries)


def main() -> None:
    points = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    delay = (float(sys.argv[2]) if len(sys.argv) > 2 else 20.0) / 1000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = DirectoryStore(folder / "store", create=True)
        build(store, folder, points)
        before = opening(store, delay, f"{points} points")
        now = datetime(2026, 11, 24, tzinfo=UTC) + points * EVERY
        tiers = [parse_tier("all:2h"), parse_tier("1h:30d")]

        def keep(log: ReplicaLog) -> set[int]:
            return {v.point.seq for v in decide(log.points, tiers, now, log.head.holds) if v.keep}

        fold(store, folder, "every point of 2 hours, then one an hour", keep)
        kept = opening(store, delay, "folded so")
        log = ReplicaLog.read(store, "web")
        fold(store, folder, "all into the newest point", floor_only(log.points[-1].seq))
        newest = opening(store, delay, "folded so")
        for what, after in (("hourly", kept), ("newest only", newest)):
            print(
                f"unfolded / {what}: {before[0] / after[0]:.1f} x requests, {before[1] / after[1]:.1f} x time, "
                f"{before[2] / after[2]:.1f} x time at {delay * 1000:.0f} ms a request"
            )


def build(store: DirectoryStore, folder: Path, points: int) -> None:
    create(store, "web", replica=REPLICA, origin="host-a", clock=FixedClock())
    writer = attach(store, "web", owner="agent", clock=FixedClock(), new_id=new_id)
    rng = np.random.default_rng(1)
    began = time.perf_counter()
    base = rng.integers(0, 256, (BASE_BLOCKS, BLOCK), np.uint8)
    commit(writer, 0, sealed(folder / "log", np.arange(BASE_BLOCKS, dtype=np.uint32), base, None))
    chosen = random.Random(2)
    for number in range(1, points):
        blocks = np.array(sorted(chosen.sample(range(BASE_BLOCKS), 20)), np.uint32)
        pages = np.array([chosen.randrange(16) for _ in blocks])
        for block, page in zip(blocks.tolist(), pages.tolist(), strict=True):
            base[block, page * PAGE : page * PAGE + 512] = rng.integers(0, 256, 512, np.uint8)
        masks = (1 << pages).astype(np.uint16)
        commit(writer, number, sealed(folder / "log", blocks, base[blocks], masks))
    print(f"{points} points written in {time.perf_counter() - began:.0f} s")


def sealed(path: Path, blocks: np.ndarray, content: np.ndarray, masks: np.ndarray | None) -> SealedLog:
    writer = LogWriter(path, LogHeader(REPLICA, new_log_id(), "vda", SIZE))
    if masks is None:
        masks = np.full(len(blocks), ALL_PAGES, np.uint16)
    for first in range(0, len(blocks), 256):
        part = slice(first, first + 256)
        known = np.full(len(blocks[part]), np.void(ZERO_BLOCK_HASH), "V16")
        always = np.ones(len(blocks[part]), bool)
        for frame in pack(blocks[part], content[part], masks[part], known, always):
            writer.append(frame.pages, frame.rows)
    return writer.seal()


def commit(writer: Writer, number: int, log: SealedLog) -> None:
    reference = writer.upload(log)
    log.path.unlink()
    at = (datetime(2026, 11, 24, tzinfo=UTC) + number * EVERY).isoformat()
    disks = (DiskState(id="vda", size=SIZE, logs=(reference,)),)
    writer.commit(Draft(kind="point", nonce=new_id(), at=at, disks=disks, consistency="crash-consistent"))


def opening(inner: DirectoryStore, delay: float, what: str) -> tuple[int, float, float]:
    """Requests, seconds, and seconds with the delay."""
    took = []
    store = Far(inner)
    for store.delay in (0.0, delay):
        store.requests = 0
        began = time.perf_counter()
        log = ReplicaLog.read(store, "web")
        image = log.image(log.points[-1].seq, "vda")
        image.read(0, memoryview(bytearray(BLOCK)))
        took.append(time.perf_counter() - began)
    print(
        f"{what}: {len(log.points)} points, {len(log.records)} records; opened with {store.requests} requests "
        f"in {took[0]:.2f} s, {took[1]:.2f} s at {delay * 1000:.0f} ms a request"
    )
    return store.requests, took[0], took[1]


def fold(store: DirectoryStore, folder: Path, what: str, keep) -> None:  # noqa: ANN001
    began = time.perf_counter()
    result = merge(store, "web", keep, scratch=folder, thresholds=AT_ONCE)
    merged = time.perf_counter() - began
    began = time.perf_counter()
    swept = sweep(store, "web")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(
        f"{what}: {len(result.ranges)} ranges into {result.layers} layers of {result.written >> 20} MiB "
        f"in {merged:.1f} s ({result.copied} frames taken over, {result.packed} packed anew); "
        f"{swept.logs} logs, {swept.layers} layers, {swept.records} records deleted "
        f"in {time.perf_counter() - began:.1f} s; peak {memory} MiB"
    )


if __name__ == "__main__":
    main()
