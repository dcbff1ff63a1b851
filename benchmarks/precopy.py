"""How long a cut is read for, with pre-copy and without, by turns, while a machine writes.

    .venv/bin/python benchmarks/precopy.py [PAIRS]

A qemu-storage-daemon serves a VHDX disk of 512 MiB, all of it written; another process makes 3,000 random writes of 4
to 16 KiB a second. A cycle every 5 s, each whole: rounds, cut, hashes, log, books, commit in a directory store.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from standby.block.disk import Disk
from standby.block.nbd import NbdDisk
from standby.hypervisor.scratch import CutLimits
from standby.replication import precopy, source
from standby.replication.dirty import DirtyBlocks
from tests.hypervisor.processes import Daemon
from tests.replication.rig import Rig

SIZE = 512 << 20
WRITES = 3000
INTERVAL = 5.0
PAGE = 4096
NOISE = random.Random(1).randbytes(1 << 20)


ROUNDS: list[float] = []
"""Seconds that each round of the last cycle took; the last one is read under the cut."""


class Timed(source.Extractor):
    def round(self, disk: Disk, dirty: DirtyBlocks) -> None:
        began = time.monotonic()
        super().round(disk, dirty)
        ROUNDS.append(time.monotonic() - began)


def write(socket: str) -> None:
    """Until this process is ended; prints the rate each second."""
    disk, rng = NbdDisk(Path(socket), "vhdx", connections=1), random.Random(2)
    began, done, told = time.monotonic(), 0, 0.0
    while True:
        due = int((time.monotonic() - began) * WRITES)
        while done < due:
            length = rng.randrange(1, 5) * PAGE
            at = rng.randrange(len(NOISE) - length)
            disk.write(rng.randrange((SIZE - length) // PAGE) * PAGE, memoryview(NOISE)[at : at + length])
            done += 1
        if time.monotonic() - told > 1:
            told = time.monotonic()
            print(f"{done / (told - began):.0f}", flush=True)
        time.sleep(0.002)


def main() -> None:
    if sys.argv[1:2] == ["write"]:
        write(sys.argv[2])
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    source.Extractor = Timed
    most = precopy.MOST_ROUNDS
    reading: dict[bool, list[float]] = {True: [], False: []}
    under: dict[bool, list[float]] = {True: [], False: []}
    windows: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        subprocess.run(["qemu-img", "create", "-q", "-f", "vhdx", folder / "vhdx.img", str(SIZE)], check=True)
        daemon = Daemon(folder, {"vhdx": ("vhdx", "")})
        disk = NbdDisk(daemon.nbd, "vhdx")
        for offset in range(0, SIZE, len(NOISE)):
            disk.write(offset, memoryview(NOISE))
        disk.close()
        rig = Rig(folder, daemon.hypervisor(limits=CutLimits()))
        rig.protect()
        writer = subprocess.Popen(
            [sys.executable, __file__, "write", str(daemon.nbd)], stdout=subprocess.PIPE, text=True
        )
        try:
            rig.point()
            for number in range(2 * pairs):
                with_rounds = number % 2 == 0
                time.sleep(INTERVAL)
                precopy.MOST_ROUNDS = most if with_rounds else 0
                ROUNDS.clear()
                report, _ = rig.point()
                reading[with_rounds].append(ROUNDS[-1])
                under[with_rounds].append(report.under_cut / (1 << 20))
                windows[with_rounds].append(report.window)
        finally:
            writer.terminate()
            rates = (writer.communicate()[0] or "").split()
            rig.close()
            daemon.stop()
    print(f"{pairs} pairs of cycles, {INTERVAL:g} s apart; the writer made {rates[-1]} writes a second")
    for with_rounds, what in ((True, "with pre-copy"), (False, "without")):
        print(
            f"{what:14} reading under the cut: median {statistics.median(reading[with_rounds]) * 1e3:6.0f} ms,"
            f" most {max(reading[with_rounds]) * 1e3:6.0f} ms, of {statistics.median(under[with_rounds]):6.1f} MiB;"
            f" cut open for {statistics.median(windows[with_rounds]) * 1e3:6.0f} ms;"
            f" each: {', '.join(f'{one * 1e3:.0f}' for one in sorted(reading[with_rounds]))} ms"
        )


if __name__ == "__main__":
    main()
