"""Disks in memory, for tests of what takes any Disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from standby.block.disk import DiskFailed, check_extents
from standby.block.extent import Extent, Span, pieces

GRAIN = 4096


class MemoryDisk:
    """Clones share the content. `spans` tells of zeros by whole grains of 4 KiB, unless `coy`: then nothing.

    bad: a byte whose reading or writing fails. open: how many handles are open, this one included.
    """

    def __init__(self, content: bytes | bytearray, *, coy: bool = False, bad: int | None = None) -> None:
        self.content = bytearray(content)
        self.coy = coy
        self.bad = bad
        self.flushed = 0
        self.zeroed: list[Extent] = []
        self.written: list[Extent] = []
        self.open = [1]
        self._closed = False

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, into: memoryview) -> None:
        self.read_all([Extent(offset, len(into))], into)

    def read_all(self, extents: Sequence[Extent], into: memoryview) -> None:
        check_extents(extents, self.size, len(into))
        at = 0
        for extent in extents:
            self._meet(extent)
            into[at : at + extent.length] = self.content[extent.offset : extent.end]
            at += extent.length

    def spans(self, extent: Extent) -> Iterator[Span]:
        for piece in pieces([extent], GRAIN):
            zero = not self.coy and not any(self.content[piece.offset : piece.end])
            yield Span(piece.offset, piece.length, zero)

    def write(self, offset: int, data: memoryview) -> None:
        extent = Extent(offset, len(data))
        check_extents([extent], self.size, len(data))
        self._meet(extent)
        self.written.append(extent)
        self.content[offset : extent.end] = data

    def zero(self, extent: Extent) -> None:
        check_extents([extent], self.size, extent.length)
        self.zeroed.append(extent)
        self.content[extent.offset : extent.end] = bytes(extent.length)

    def flush(self) -> None:
        self.flushed += 1

    def clone(self) -> MemoryDisk:
        twin = MemoryDisk.__new__(MemoryDisk)
        twin.__dict__.update(self.__dict__)
        twin._closed = False
        self.open[0] += 1
        return twin

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.open[0] -= 1

    def _meet(self, extent: Extent) -> None:
        if self.bad is not None and extent.offset <= self.bad < extent.end:
            raise DiskFailed(f"byte {self.bad} is bad", subject="memory", extent=extent, errno=5)
