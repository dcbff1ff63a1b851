"""Copy one disk onto another, by several workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import NamedTuple, cast

import numpy as np

from standby.block.disk import Disk, WritableDisk
from standby.block.extent import Extent, Span, pieces, total
from standby.errors import InvalidRequest

CHUNK = 4 << 20
"""Bytes that a worker reads at once, and keeps in memory."""

GRAIN = 64 << 10
"""Zeros shorter than this are written as data: smaller holes cost the target more than they save."""


class CopyResult(NamedTuple):
    """Bytes read from the source, written to the target as data, and left or made zero in it."""

    read: int
    written: int
    zeroed: int


def copy(
    source: Disk,
    target: WritableDisk,
    *,
    workers: int = 2,
    progress: Callable[[int], None] | None = None,
    new: bool = False,
) -> CopyResult:
    """Make `target` read as `source`, zeros beyond its end, and durable; sparse where the target can be.

    What the source says is zero is not read. progress: called, by any worker, with the bytes just dealt
    with; they add up to the source's size. The first error of a worker stops all and is raised; the target
    is then worthless. InvalidRequest if the target is smaller than the source.
    new: the target was just created and reads as zeros, though it may not tell: QEMU knows no holes in VHDX, and
    writes all of it when told to make it zero.
    """
    if target.size < source.size:
        raise InvalidRequest(
            f"the target has {target.size} bytes, the source {source.size}",
            hint="create it as large as the source",
        )
    # A new image has nothing to make zero; on an old one every zero must be written.
    blank = new or all(span.zero for span in target.spans(Extent(0, target.size)))
    if not blank and target.size > source.size:
        target.zero(Extent(source.size, target.size - source.size))
    run = _Run(source, target, blank, progress)
    with ThreadPoolExecutor(workers, thread_name_prefix="copy") as pool:
        try:
            jobs = [pool.submit(run.work) for _ in range(workers)]
            parts = [job.result() for job in jobs]
        except BaseException:
            # Also when the wait is interrupted: leaving the pool waits for workers to notice.
            run.stop.set()
            raise
    target.flush()
    return CopyResult(*map(sum, zip(*parts, strict=True)))


class _Job(NamedTuple):
    """What a worker does at a time: however the disk is fragmented, one `read_all` of a whole chunk."""

    zeros: list[Extent]
    data: list[Extent]


class _Run:
    """What the workers of one copy share."""

    def __init__(
        self, source: Disk, target: WritableDisk, blank: bool, progress: Callable[[int], None] | None
    ) -> None:
        self.stop = threading.Event()
        self._source = source
        self._target = target
        self._blank = blank
        self._progress = progress
        self._jobs = _jobs(source)
        # Guards the two handles, of which the workers use only spans and clone.
        self._shared = threading.Lock()

    def work(self) -> CopyResult:
        try:
            with ExitStack() as stack:
                with self._shared:
                    source = stack.enter_context(closing(self._source.clone()))
                    target = stack.enter_context(closing(cast(WritableDisk, self._target.clone())))
                return self._work(source, target)
        except BaseException:
            self.stop.set()
            raise

    def _work(self, source: Disk, target: WritableDisk) -> CopyResult:
        read = written = zeroed = 0
        buffer = memoryview(bytearray(CHUNK))
        while (job := self._take()) is not None:
            packed = buffer[: total(job.data)]
            source.read_all(job.data, packed)
            read += len(packed)
            for extent in job.zeros:
                zeroed += self._zero(target, extent)
            for extent in job.data:
                view, packed = packed[: extent.length], packed[extent.length :]
                for part in _runs(extent, view):
                    if part.zero:
                        zeroed += self._zero(target, Extent(part.offset, part.length))
                    else:
                        start = part.offset - extent.offset
                        target.write(part.offset, view[start : start + part.length])
                        written += part.length
            if self._progress:
                self._progress(total(job.zeros) + total(job.data))
        target.flush()
        return CopyResult(read, written, zeroed)

    def _take(self) -> _Job | None:
        with self._shared:
            return None if self.stop.is_set() else next(self._jobs, None)

    def _zero(self, target: WritableDisk, extent: Extent) -> int:
        if not self._blank:
            target.zero(extent)
        return extent.length


def _jobs(source: Disk) -> Iterator[_Job]:
    """The whole disk, in order. Used under a lock."""
    zeros: list[Extent] = []
    data: list[Extent] = []
    room = CHUNK
    for span in source.spans(Extent(0, source.size)):
        if span.zero:
            _append(zeros, Extent(span.offset, span.length))
            continue
        offset, left = span.offset, span.length
        while left:
            step = min(left, room)
            _append(data, Extent(offset, step))
            offset, left, room = offset + step, left - step, room - step
            if not room:
                yield _Job(zeros, data)
                zeros, data, room = [], [], CHUNK
    if zeros or data:
        yield _Job(zeros, data)


def _append(extents: list[Extent], extent: Extent) -> None:
    """Add at the end, joined with the last if it continues that."""
    if extents and extents[-1].end == extent.offset:
        last = extents.pop()
        extent = Extent(last.offset, last.length + extent.length)
    extents.append(extent)


def _runs(extent: Extent, view: memoryview) -> Iterator[Span]:
    """The extent as runs of zero and other grains; grains lie at multiples of GRAIN on the disk."""
    run: Span | None = None
    for piece in pieces([extent], GRAIN):
        start = piece.offset - extent.offset
        zero = not np.frombuffer(view[start : start + piece.length], np.uint8).any()
        if run and run.zero == zero:
            run = Span(run.offset, run.length + piece.length, zero)
            continue
        if run:
            yield run
        run = Span(piece.offset, piece.length, zero)
    if run:
        yield run
