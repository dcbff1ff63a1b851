"""Numbered writes over several disks, by which a copy shows whether it is one instant of its source.

The last AREA bytes of every disk, behind its file system, hold stamps. Write g = 1, 2, 3, ... goes to disk
(g - 1) mod n; the i-th write of a disk (i = 1, 2, ...) fills slot (i - 1) mod slots of its area. Write g + 1
is issued only after g completed. So at every instant the areas hold exactly the first k writes for some k,
and any lost, torn, reordered or foreign write among those still visible breaks that.

A slot is SLOT bytes: one 32-byte record repeated. Record, little-endian: 8 bytes `STBYSTMP`, u64 g, u32 disk,
u32 number of disks, u64 bitwise complement of g.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from standby.block.disk import Disk, WritableDisk
from standby.block.extent import Extent
from standby.errors import Damaged

AREA: Final = 8 << 20
SLOT: Final = 4096
MAGIC: Final = b"STBYSTMP"

_RECORD = struct.Struct("<8sQLLQ")
_COPIES = SLOT // _RECORD.size
_MASK = (1 << 64) - 1


class NotAPrefix(Damaged):
    """The stamps of a set of disks are not those of any one instant."""


def area_of(size: int) -> Extent:
    """Where the stamps of a disk of `size` bytes are."""
    return Extent(size - AREA, AREA)


def stamp(number: int, disks: int) -> bytes:
    """The SLOT bytes of global write `number` (from 1) over `disks` disks."""
    record = _RECORD.pack(MAGIC, number, (number - 1) % disks, disks, number ^ _MASK)
    return record * _COPIES


def place(number: int, disks: int, slots: int) -> tuple[int, int]:
    """The disk and the byte offset within its area that global write `number` goes to."""
    index, disk = divmod(number - 1, disks)
    return disk, index % slots * SLOT


def prefix(areas: Sequence[bytes | memoryview]) -> int:
    """k such that the areas hold exactly the first k global writes and nothing else.

    areas: the whole stamp area of every disk in order, of equal length, a multiple of SLOT.
    Raises NotAPrefix, naming the disk and the slot. The newest write being absent is not visible: then k is
    one less.
    """
    disks = len(areas)
    found = [np.frombuffer(area, np.uint8).reshape(-1, SLOT) for area in areas]
    slots = len(found[0])
    if any(len(rows) != slots for rows in found):
        raise ValueError("the stamp areas are not equally long")
    newest = max(_newest(rows, disk, disks) for disk, rows in enumerate(found))
    for disk, rows in enumerate(found):
        numbers = _expected(newest, disk, disks, slots)
        wrong = np.flatnonzero((rows != _rows(numbers, disk, disks)).any(axis=1))
        if len(wrong):
            slot = int(wrong[0])
            raise NotAPrefix(
                f"slot {slot} should hold {_name(int(numbers[slot]))}, as write {newest} is there,"
                f" but holds {_describe(rows[slot].tobytes(), disks)}"
                f" ({len(wrong)} of {slots} slots are wrong)",
                subject=f"stamps of disk {disk}",
                hint="the copy is not one instant of its source; keep it and the logs, and file a defect",
            )
    return newest


def prefix_of_disks(disks: Sequence[Disk]) -> int:
    """`prefix` of the stamp areas at the disks' ends."""
    areas = []
    for disk in disks:
        area = bytearray(AREA)
        disk.read(area_of(disk.size).offset, memoryview(area))
        areas.append(memoryview(area))
    return prefix(areas)


class StampWriter:
    """Writes stamps from the host, as the guest's own writer does; goes on behind what the disks hold."""

    def __init__(self, disks: Sequence[WritableDisk]) -> None:
        self._disks = disks
        self._starts = [area_of(disk.size).offset for disk in disks]
        self.last = prefix_of_disks(disks)
        """The newest write that completed."""

    def write(self, count: int = 1) -> int:
        """Issue the next `count` writes one after the other; returns the newest one's number."""
        for _ in range(count):
            number = self.last + 1
            disk, offset = place(number, len(self._disks), AREA // SLOT)
            self._disks[disk].write(self._starts[disk] + offset, memoryview(stamp(number, len(self._disks))))
            self.last = number
        return self.last


_RECORDS = np.dtype(
    [("magic", "S8"), ("number", "<u8"), ("disk", "<u4"), ("disks", "<u4"), ("inverse", "<u8")]
)


def _expected(newest: int, disk: int, disks: int, slots: int) -> npt.NDArray[np.int64]:
    """Per slot of `disk`, the number of the write it holds after write `newest`; 0 where none was."""
    writes = max(0, (newest - disk + disks - 1) // disks)
    slot = np.arange(slots, dtype=np.int64)
    index = writes - (writes - 1 - slot) % slots
    return np.where(index >= 1, (index - 1) * disks + disk + 1, 0)


def _rows(numbers: npt.NDArray[np.int64], disk: int, disks: int) -> npt.NDArray[np.uint8]:
    records = np.zeros(len(numbers), _RECORDS)
    written = numbers > 0
    records["magic"][written] = MAGIC
    records["number"] = numbers
    records["disk"][written] = disk
    records["disks"][written] = disks
    records["inverse"][written] = ~numbers[written].astype(np.uint64)
    return np.tile(records.view(np.uint8).reshape(-1, _RECORD.size), (1, _COPIES))


def _newest(rows: npt.NDArray[np.uint8], disk: int, disks: int) -> int:
    """The greatest number among the slots whose first record is in itself a proper one of this disk."""
    records = np.ascontiguousarray(rows[:, : _RECORD.size]).view(_RECORDS).reshape(-1)
    proper = (records["magic"] == MAGIC) & (records["inverse"] == ~records["number"])
    proper &= (records["disk"] == disk) & (records["disks"] == disks)
    return int(records["number"][proper].max(initial=0))


def _describe(slot: bytes, disks: int) -> str:
    magic, number, _, count, inverse = _RECORD.unpack_from(slot)
    if not any(slot):
        return "zeros"
    if magic == MAGIC and inverse == number ^ _MASK:
        if slot == stamp(number, disks):
            return _name(number)
        return f"write {number} of {count} disks, torn or altered"
    return "something that is no stamp"


def _name(number: int) -> str:
    return f"write {number}" if number else "zeros"
