"""A disk that another process serves over NBD on a Unix socket, by libnbd."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbd

from standby.block.connection import Connections
from standby.block.disk import DiskFailed, DiskReadOnly, DiskUnreachable, check_extents
from standby.block.extent import Extent, Span
from standby.errors import InvalidRequest

REQUEST = 256 << 10
"""Bytes of one read or write request: as much as nbdcopy asks for; larger ones were slower."""

STATUS = 1 << 30
"""Bytes of one block-status or zero request; the protocol's length field has 32 bits."""

ALLOCATION = "base:allocation"


class NbdDisk:
    """A `WritableDisk` behind `export` on the Unix socket `socket`.

    connections: as many as this, if the server says that they see one another's writes (else one).
    depth:       requests in flight on each. On a quiet machine 4x8 read scattered pages fastest, on a
                 loaded one 2x16 (benchmarks/reading.py).
    bitmap:      name of QEMU's dirty bitmap that `dirty` reads.
    patience:    seconds without any movement on the connection until a wait is given up.

    Every method raises DiskUnreachable when the server is gone or silent, and DiskFailed when it answered
    with an error. Constructing also raises InvalidRequest for an export that the server does not have.
    """

    def __init__(
        self,
        socket: Path,
        export: str,
        *,
        connections: int = 4,
        depth: int = 8,
        bitmap: str | None = None,
        patience: float = 30.0,
    ) -> None:
        self._socket = socket
        self._export = export
        self._count = connections
        self._depth = depth
        self._bitmap = bitmap
        self._patience = patience
        self._connections = self._open([ALLOCATION])
        first = self._connections.first
        self._size: int = first.get_size()
        self._read_only: bool = first.is_read_only()
        self._can_flush: bool = first.can_flush()
        self._can_zero: bool = first.can_zero()
        self._knows_allocation: bool = first.can_meta_context(ALLOCATION)
        self._request = min(REQUEST, first.get_block_size(nbd.SIZE_MAXIMUM) or REQUEST)

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, into: memoryview) -> None:
        self.read_all([Extent(offset, len(into))], into)

    def read_all(self, extents: Sequence[Extent], into: memoryview) -> None:
        """See `Disk`. Replies land in `into` without a copy in between."""
        check_extents(extents, self._size, len(into))
        self._connections.run("read", _read, self._packed(extents, into))

    def spans(self, extent: Extent) -> Iterator[Span]:
        if not self._knows_allocation:
            yield Span(extent.offset, extent.length, False)
            return
        span: Span | None = None
        for offset, length, flags in _status(self._connections, extent):
            zero = bool(flags & nbd.STATE_ZERO)
            if span and span.zero == zero:
                span = Span(span.offset, span.length + length, zero)
                continue
            if span:
                yield span
            span = Span(offset, length, zero)
        if span:
            yield span

    def dirty(self) -> list[Extent]:
        """What the dirty bitmap marks, over the whole disk: sorted, neither overlapping nor touching.

        Raises InvalidRequest if no bitmap was named or the export does not show it.
        """
        context = f"qemu:dirty-bitmap:{self._bitmap}"
        # A connection of its own: one that has both contexts makes QEMU answer for both at every call.
        with self._still_there():
            connections = self._open([context], count=1)
        try:
            if self._bitmap is None or not connections.first.can_meta_context(context):
                raise InvalidRequest(
                    f"no dirty bitmap {self._bitmap!r} is shown",
                    subject=connections.subject,
                    hint="name the bitmap when the export is added (block-export-add, bitmaps)",
                )
            found: list[Extent] = []
            for offset, length, flags in _status(connections, Extent(0, self._size)):
                if not flags & 1:
                    continue
                if found and found[-1].end == offset:
                    offset, length = found[-1].offset, found.pop().length + length
                found.append(Extent(offset, length))
            return found
        finally:
            connections.drop("closed")

    def write(self, offset: int, data: memoryview) -> None:
        self._check_writable()
        extent = Extent(offset, len(data))
        check_extents([extent], self._size, len(data))
        self._connections.run("write", _write, self._packed([extent], data))

    def zero(self, extent: Extent) -> None:
        self._check_writable()
        check_extents([extent], self._size, extent.length)
        if self._can_zero:
            jobs = ((piece.offset, piece.length) for piece in _split([extent], STATUS))
            self._connections.run("zeroing", _zero, jobs)
        else:
            zeros = memoryview(bytes(min(self._request, extent.length)))
            jobs_of_zeros = (
                (piece.offset, zeros[: piece.length]) for piece in _split([extent], self._request)
            )
            self._connections.run("write", _write, jobs_of_zeros)

    def flush(self) -> None:
        if self._can_flush:
            self._connections.run("flush", _flush, [(0, 0)])

    def clone(self) -> NbdDisk:
        with self._still_there():
            return NbdDisk(
                self._socket,
                self._export,
                connections=self._count,
                depth=self._depth,
                bitmap=self._bitmap,
                patience=self._patience,
            )

    def close(self) -> None:
        self._connections.drop("the disk was closed")

    @contextmanager
    def _still_there(self) -> Iterator[None]:
        """An export that was there and is not any more is no wrong request: its server was restarted, or it ended."""
        try:
            yield
        except InvalidRequest as error:
            raise DiskUnreachable(
                f"{error.cause} any more", subject=error.subject, hint="see whether its server was restarted"
            ) from error

    def _open(self, contexts: Sequence[str], count: int | None = None) -> Connections:
        return Connections(
            self._socket,
            self._export,
            contexts,
            count=count or self._count,
            depth=self._depth,
            patience=self._patience,
        )

    def _packed(self, extents: Iterable[Extent], view: memoryview) -> Iterator[tuple[int, memoryview]]:
        """The requests that move the extents, packed in `view`; neighbours on the disk go together."""
        at = 0
        for piece in _split(_joined(extents), self._request):
            yield piece.offset, view[at : at + piece.length]
            at += piece.length

    def _check_writable(self) -> None:
        if self._read_only:
            raise DiskReadOnly("the server lets nobody write", subject=self._connections.subject)


def _joined(extents: Iterable[Extent]) -> Iterator[Extent]:
    """The extents in the order given, those that continue the one before joined to it."""
    last: Extent | None = None
    for extent in extents:
        if last and last.end == extent.offset:
            last = Extent(last.offset, last.length + extent.length)
            continue
        if last:
            yield last
        last = extent
    if last:
        yield last


def _split(extents: Iterable[Extent], most: int) -> Iterator[Extent]:
    for offset, length in extents:
        while length > 0:
            step = min(length, most)
            yield Extent(offset, step)
            offset, length = offset + step, length - step


def _status(connections: Connections, extent: Extent) -> Iterator[tuple[int, int, int]]:
    """(offset, length, flags) over the extent, in order, of the one context that was negotiated."""
    offset = extent.offset
    while offset < extent.end:
        found: list[int] = []

        def collect(
            _context: str, _start: int, entries: list[int], _error: object, found: list[int] = found
        ) -> int:
            found.extend(entries)
            return 0

        def issue(handle: nbd.NBD, start: int, length: int, collect: Any = collect) -> Any:
            return handle.aio_block_status(length, start, collect)

        asked = min(STATUS, extent.end - offset)
        connections.run("block status", issue, [(offset, asked)])
        before = offset
        for length, flags in zip(found[::2], found[1::2], strict=True):
            # The last entry may reach past what was asked for (NBD protocol, NBD_REPLY_TYPE_BLOCK_STATUS).
            length = min(length, extent.end - offset)
            if length:
                yield offset, length, flags
                offset += length
        if offset == before:
            raise DiskFailed(
                f"block status at offset {offset} was answered with nothing",
                subject=connections.subject,
                extent=Extent(offset, asked),
                errno=0,
            )


# An nbd.Buffer around the view would never let go of it (libnbd 1.14.2, nbd_internal_py_get_aio_view): each read
# and write would leave its memory behind.
def _read(handle: nbd.NBD, offset: int, view: memoryview) -> Any:
    return handle.aio_pread(view, offset)


def _write(handle: nbd.NBD, offset: int, view: memoryview) -> Any:
    return handle.aio_pwrite(view, offset)


def _zero(handle: nbd.NBD, offset: int, length: int) -> Any:
    return handle.aio_zero(length, offset)


def _flush(handle: nbd.NBD, _offset: int, _length: int) -> Any:
    return handle.aio_flush()
