"""What a disk is to the rest of standby: a size and bytes.

Restore, export, verify, boot and test failover copy or serve a `Disk`; initial replication, delta and
resync read one. A handle belongs to one thread at a time; `clone` gives another thread its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from standby.block.extent import Extent, Span, total
from standby.errors import InvalidRequest, Recoverable


class DiskUnreachable(Recoverable):
    """The process that serves the disk is gone, or gives no answer within the time limit.

    The handle is of no use afterwards: what is served under the same name later may be another
    snapshot, so going on is the caller's decision, with a new handle.
    """


class DiskFailed(Recoverable):
    """The disk answered one request with an error; the handle goes on working.

    extent: the bytes concerned. errno: the error's number.
    """

    def __init__(self, cause: str, *, subject: str, extent: Extent, errno: int, hint: str = "") -> None:
        super().__init__(cause, subject=subject, hint=hint)
        self.extent = extent
        self.errno = errno


class DiskReadOnly(InvalidRequest):
    """A write to a disk that was opened, or is served, for reading only."""


class Disk(Protocol):
    """A readable disk of `size` bytes. Reads past the end are a caller's error (ValueError)."""

    @property
    def size(self) -> int:
        """Bytes; what the guest sees, not what the image file takes."""
        ...

    def read(self, offset: int, into: memoryview) -> None:
        """Fill `into` (writable, contiguous bytes) with the bytes from `offset` on."""
        ...

    def read_all(self, extents: Sequence[Extent], into: memoryview) -> None:
        """Fill `into` with the extents' bytes, packed one behind the other in the order given.

        An adapter keeps several requests in flight; this is the fast way to read scattered pages.
        `len(into)` equals the sum of the lengths.
        """
        ...

    def spans(self, extent: Extent) -> Iterator[Span]:
        """Cover `extent` in order, telling what surely reads as zeros. Telling less is allowed."""
        ...

    def clone(self) -> Disk:
        """An independent handle on the same disk, for another thread. Closed on its own."""
        ...

    def close(self) -> None:
        """Let go of connections and memory. Closing twice is harmless."""
        ...


class WritableDisk(Disk, Protocol):
    def write(self, offset: int, data: memoryview) -> None: ...

    def zero(self, extent: Extent) -> None:
        """Make the extent read as zeros, without taking space where the format can."""
        ...

    def flush(self) -> None:
        """Return only when everything written is durable."""
        ...


def check_extents(extents: Sequence[Extent], size: int, room: int) -> None:
    """ValueError unless all extents lie within a disk of `size` bytes and fill `room` bytes exactly."""
    for extent in extents:
        if extent.offset < 0 or extent.length < 0 or extent.end > size:
            raise ValueError(f"{extent} does not lie within a disk of {size} bytes")
    if total(extents) != room:
        raise ValueError(f"the extents have {total(extents)} bytes, the buffer {room}")
