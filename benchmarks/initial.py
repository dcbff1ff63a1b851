"""Initial replication beside what people would do by hand, on the same disk, alternating.

    .venv/bin/python benchmarks/initial.py [ROUNDS]

A qemu-storage-daemon serves a qcow2 disk with real files of this machine. One way scans it as initial replication
does (read, find zeros, hash, compress, write, fsync); another does the same for an encrypted replica; the third is
`nbdcopy | zstd -1 -T2` into a file. Prints the median of each and the ratio of each round's times.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ulid import ULID

from standby.block.extent import Extent
from standby.block.nbd import NbdDisk
from standby.demo.content import DiskPlan, build
from standby.replica.cipher import Cipher
from standby.replica.format import LogHeader, block_count, block_hash
from standby.replica.log import LogWriter
from standby.replication.extract import Extractor
from standby.replication.known import KnownBlocks

CONTENT = 1 << 30


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "standby-demo"
    (disk,) = build(cache, [DiskPlan("qcow2", CONTENT)])
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        socket = folder / "nbd"
        file = {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": str(disk.path)}}
        daemon = subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", json.dumps(file | {"read-only": True})]
            + [
                "--nbd-server",
                f"addr.type=unix,addr.path={socket}",
                "--export",
                "nbd,id=e,node-name=n,name=n",
            ]
        )
        while not socket.exists():
            time.sleep(0.05)
        try:
            scans, encrypted, pipes = [], [], []
            cipher = Cipher(os.urandom(32), ULID().to_uuid())
            for number in range(rounds + 1):
                scans.append(_scan(folder / f"{number}.hrl", socket, folder / f"{number}.hashes"))
                encrypted.append(_scan(folder / f"{number}.hrl", socket, folder / f"{number}.hashes", cipher))
                pipes.append(_pipe(folder / "out.zst", socket))
        finally:
            daemon.terminate()
            daemon.wait()
    # The first round warms the page cache.
    processor = [a[1] / b[1] for a, b in zip(encrypted[1:], scans[1:], strict=True)]
    scans, encrypted, pipes = [s for s, _ in scans[1:]], [s for s, _ in encrypted[1:]], pipes[1:]
    print(
        f"disk {disk.size >> 20} MiB, files {disk.content >> 20} MiB, {os.cpu_count()} processors, {rounds} rounds"
    )
    print(f"initial replication    {statistics.median(scans):6.2f} s")
    print(f"the same, encrypted    {statistics.median(encrypted):6.2f} s")
    print(f"nbdcopy | zstd -1 -T2  {statistics.median(pipes):6.2f} s")
    _ratio("ratio", scans, pipes)
    _ratio("encrypted to not", encrypted, scans)
    _print("its processor time", processor)


def _ratio(title: str, these: list[float], those: list[float]) -> None:
    _print(title, [a / b for a, b in zip(these, those, strict=True)])


def _print(title: str, ratios: list[float]) -> None:
    print(f"{title:22} {statistics.median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


def _scan(path: Path, socket: Path, hashes: Path, cipher: Cipher | None = None) -> tuple[float, float]:
    """Seconds, and seconds of this process's processor time, which tells more on a busy machine."""
    began, worked = time.monotonic(), time.process_time()
    disk = NbdDisk(socket, "n")
    known = KnownBlocks.empty(hashes, block_count(disk.size))
    log = LogWriter(path, LogHeader(ULID().to_uuid(), ULID().bytes, "n", disk.size), cipher)
    hashed = cipher.block_hash if cipher else block_hash
    Extractor(known, lambda: log, hashed=hashed).scan(disk, Extent(0, disk.size))
    log.seal()
    known.close()
    disk.close()
    seconds, processor = time.monotonic() - began, time.process_time() - worked
    path.unlink()
    hashes.unlink()
    return seconds, processor


def _pipe(path: Path, socket: Path) -> float:
    began = time.monotonic()
    shell = f"nbdcopy 'nbd+unix:///n?socket={socket}' - | zstd -q -f -1 -T2 -o {path} && sync -f {path}"
    subprocess.run(["bash", "-o", "pipefail", "-c", shell], check=True)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
