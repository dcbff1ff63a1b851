"""Uploading logs to a cloud, beside the plain client of the same cloud in the same run.

ratio: ours divided by the plain client's, which is obstore's put as it comes, with the whole file in memory.
(A directory store links the log and moves no bytes.) Last, what this process grew by while it uploaded LOG bytes.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import obstore

from standby.objects.base import ObjectStore
from standby.objects.cloud import CloudStore
from tests.support.clouds import start_azurite, start_moto

MIB = 1 << 20
SIZES = (1 * MIB, 8 * MIB, 64 * MIB)
LOG = 256 * MIB
RECORDS = 100


def rate(size: int, runs: int, call: Callable[[int], object]) -> float:
    """MB/s, the median of some runs."""
    seconds = []
    for number in range(runs):
        began = time.perf_counter()
        call(number)
        seconds.append(time.perf_counter() - began)
    return size / statistics.median(seconds) / 1e6


class Peak:
    """By how much the process grows meanwhile, in MiB, sampled."""

    def __enter__(self) -> Peak:
        self._begin = self.most = _resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.most = max(self.most, _resident())

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def grown(self) -> float:
        return (self.most - self._begin) / MIB


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        azurite, moto = start_azurite(folder), start_moto(folder)
        try:
            for cloud in (azurite, moto):
                store = cloud.place().open()
                measure(cloud.kind, store, plain_cloud(store), folder)
                commits(cloud.kind, store)
            with Peak() as peak:
                azurite.place().open().put_file("log", written(folder, LOG))
            print(f"az a log of {LOG // MIB} MiB: this process grew by {peak.grown:.0f} MiB")
        finally:
            azurite.stop()
            moto.stop()


def plain_cloud(store: CloudStore) -> Callable[[str, bytes], object]:
    client = type(store._client)(  # the same account, obstore's own defaults
        config=store._client.config,
        prefix=store._client.prefix,
        client_options={"allow_http": True, "timeout": timedelta(seconds=120)},
    )
    return lambda name, data: obstore.put(client, name, data)


def written(folder: Path, size: int) -> Path:
    path = folder / "source"
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)
    return path


def measure(kind: str, store: ObjectStore, plain: Callable[[str, bytes], object], folder: Path) -> None:
    for size in SIZES:
        path = written(folder, size)
        runs = 7 if size < 64 * MIB else 3
        theirs = rate(size, runs, lambda number, path=path: plain(f"plain-{number}", path.read_bytes()))
        ours = rate(size, runs, lambda number, path=path: store.put_file(f"log-{number}", path))
        back = rate(size, runs, lambda number, size=size: store.get_range(f"log-{number}", 0, size))
        print(
            f"{kind} {size // MIB:3} MiB: put_file {ours:6.0f} MB/s, plain client {theirs:6.0f} MB/s, "
            f"ratio {ours / theirs:.2f}; get_range {back:6.0f} MB/s"
        )


def commits(kind: str, store: ObjectStore) -> None:
    began = time.perf_counter()
    for number in range(RECORDS):
        store.put_if_absent(f"points/{number:020}", b"x" * 1000)
    each = (time.perf_counter() - began) / RECORDS
    print(f"{kind} put_if_absent of a record: {each * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
