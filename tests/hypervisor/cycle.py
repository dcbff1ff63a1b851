"""A small agent: keeps raw copies of a machine's disks by scan, pre-copy rounds and cuts. Also a program.

Its state (`state.json`, the copies) changes only between the adapter's calls, all at once for the purpose of
these tests, so a kill at a failpoint of the adapter finds it whole.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from standby.block.extent import Extent, total
from standby.hypervisor.base import Consistency
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.hypervisor.scratch import CutLimits

LIMITS = CutLimits(reserve=16 << 20, interval=0.02)


class Copies:
    def __init__(self, directory: Path):
        self.directory = directory
        self._state = directory / "state.json"

    @property
    def state(self):
        """active, next (both round numbers), sizes by disk, disks to scan."""
        return json.loads(self._state.read_text())

    def save(self, **changes):
        old = self.state if self._state.exists() else {}
        temporary = self._state.with_suffix(".new")
        temporary.write_text(json.dumps(old | changes))
        temporary.rename(self._state)

    def commit(self, read, **changes):
        for name, pieces in read.items():
            with (self.directory / f"{name}.copy").open("r+b") as file:
                for extent, data in pieces:
                    file.seek(extent.offset)
                    file.write(data)
        self.save(**changes)

    def contents(self):
        return {
            name: bytearray((self.directory / f"{name}.copy").read_bytes()) for name in self.state["sizes"]
        }


def create(directory: Path, sizes) -> Copies:
    copies = Copies(directory)
    for name in sizes:
        (directory / f"{name}.copy").touch()
    copies.save(active=0, next=1, sizes=sizes, scan=[])
    return copies


def recover(tracking, copies):
    """Recover, and begin and mark for a scan what was lost; the states."""
    state = copies.state
    lost = tracking.recover(state["active"], state["sizes"])
    names = sorted(name for name, why in lost.items() if why)
    if names:
        number = state["next"]
        copies.save(scan=sorted(set(state["scan"]) | set(names)), next=number + 1)
        tracking.begin(number, names)
        # The other disks' rounds below still reach back to the old one.
        copies.save(active=number if len(names) == len(lost) else state["active"])
    return lost


def take(tracking, copies, precopy=0, consistency=Consistency.CRASH, look=None):
    """One cycle: scan what must be, pre-copy, cut, commit, forget. Bytes read under the cut."""
    state = copies.state
    number, read = state["next"], {name: [] for name in state["sizes"]}
    if state["scan"]:
        live = tracking.live()
        for name, disk in live.items():
            if name in state["scan"]:
                read[name] += pull(disk, [Extent(0, disk.size)])
            disk.close()
    for _ in range(precopy):
        for name, (disk, dirty) in tracking.advance(number).items():
            read[name] += pull(disk, dirty)
            disk.close()
        number += 1
    with tracking.cut(number, consistency) as cut:
        for name, (disk, dirty) in cut.disks.items():
            read[name] += pull(disk, dirty)
        if look:
            look(cut)
        under = sum(total(dirty) for _, dirty in cut.disks.values())
    copies.commit(read, active=number, next=number + 1, scan=[])
    tracking.forget(number)
    return under


def pull(disk, extents):
    pieces = []
    for extent in extents:
        data = bytearray(extent.length)
        disk.read(extent.offset, memoryview(data))
        pieces.append((extent, data))
    return pieces


def main(directory, qmp, nbd, agent):
    hypervisor = QemuHypervisor({"vm": QemuMachine(Path(qmp), Path(agent), Path(nbd))}, limits=LIMITS)
    tracking = hypervisor.tracking("vm", "rel", Path(directory))
    copies = Copies(Path(directory))
    for _ in range(2):
        recover(tracking, copies)
        take(tracking, copies, precopy=2, consistency=Consistency.APPLICATION)
        tracking.advance(copies.state["next"])  # left behind, as if writing the log had failed
    tracking.recover(copies.state["active"], copies.state["sizes"])
    tracking.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
