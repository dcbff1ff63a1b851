"""How fast NbdDisk reads a raw disk from qemu-storage-daemon, next to nbdcopy on the same server.

    .venv/bin/python benchmarks/reading.py [ROUNDS]

Every round measures every way once; the best round of each counts. The file is in the page cache.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from standby.block.extent import Extent
from standby.block.nbd import NbdDisk
from tests.support.nbd_servers import storage_daemon

SIZE = 512 << 20
PAGES = [Extent(page * 4096, 4096) for page in random.Random(1).sample(range(SIZE // 4096), 16384)]
SHAPES = ((1, 1), (1, 32), (2, 16), (4, 8))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    best: dict[str, float] = {}

    def note(what: str, amount: float, start: float) -> None:
        best[what] = max(best.get(what, 0), amount / (time.perf_counter() - start))

    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        image = directory / "image"
        image.write_bytes(random.Random(2).randbytes(64 << 20) * (SIZE >> 26))
        into = memoryview(bytearray(b"\1") * (64 << 20))
        with storage_daemon(directory) as server:
            server.add("d", image, "raw", writable=False)
            for _ in range(rounds):
                for connections, depth in SHAPES:
                    disk = NbdDisk(server.socket, "d", connections=connections, depth=depth)
                    start = time.perf_counter()
                    disk.read_all(PAGES, into[: len(PAGES) * 4096])
                    note(f"random 4 KiB, {connections} x {depth}, k/s", len(PAGES) / 1e3, start)
                    start = time.perf_counter()
                    for offset in range(0, SIZE, len(into)):
                        disk.read(offset, into)
                    note(f"sequential, {connections} x {depth}, GB/s", SIZE / 1e9, start)
                    disk.close()
                start = time.perf_counter()
                subprocess.run(["nbdcopy", f"nbd+unix:///d?socket={server.socket}", "null:"], check=True)
                note("sequential, nbdcopy to null, GB/s", SIZE / 1e9, start)
    for what, rate in sorted(best.items()):
        print(f"{what}: {rate:.2f}")


if __name__ == "__main__":
    main()
