"""Reading what changed and packing it into a log, by several workers that each do all of it.

Reading, hashing and compressing let go of the interpreter, so N threads use N cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from functools import partial
from queue import SimpleQueue
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from standby.block.disk import Disk
from standby.block.extent import Extent, Span, total
from standby.replica.cipher import Cipher
from standby.replica.format import BLOCK, BlockHash, block_count, block_hash
from standby.replica.log import LogWriter
from standby.replica.pack import ZERO_HASH_ITEM, Content, empty_content, pack, zero_rows
from standby.replication.dirty import (
    EMPTY,
    DirtyBlocks,
    block_extents,
    every_block,
    masks_for,
    together,
)
from standby.replication.known import KnownBlocks

UNIT_BLOCKS: Final = 64
"""Blocks that a worker reads at once: 4 MiB."""

SPARE_BUFFERS: Final = 32
"""Units that are kept for the next round, of whatever machine: 128 MiB."""

WORKERS: Final = max(1, min(4, os.cpu_count() or 1))

Progress = Callable[[int], None]
"""Told the bytes of the disk that were read since the last call."""


def nothing(_: int) -> None:
    """Progress for those who do not ask."""


class _Worker(NamedTuple):
    """What one thread has for itself: a handle on the disk, and room for a unit."""

    disk: Disk
    content: Content


_Task = Callable[[_Worker], None]


class _Buffers:
    """Room for units, used again and again: a kernel gives new memory slowly (measured: 50 MiB in 130 ms)."""

    def __init__(self) -> None:
        self._spare: list[Content] = []

    def take(self) -> Content:
        try:
            return self._spare.pop()
        except IndexError:
            return empty_content(UNIT_BLOCKS)

    def give_back(self, buffer: Content) -> None:
        if len(self._spare) < SPARE_BUFFERS:
            self._spare.append(buffer)


_buffers = _Buffers()


def hash_of(cipher: Cipher | None) -> BlockHash:
    """What names a block's content in the replica that the cipher is of."""
    return cipher.block_hash if cipher else block_hash


class Extractor:
    """Fills one log of one disk. Rounds are extracted one after the other; within one, by all workers."""

    def __init__(
        self,
        known: KnownBlocks,
        log: Callable[[], LogWriter],
        workers: int = WORKERS,
        *,
        hold: int = 0,
        hashed: BlockHash = block_hash,
    ) -> None:
        """`log` makes the log when the first changed block is found, so that no change costs no log.

        hold: how many units small rounds may keep in memory until `finish`: then they only cost the reading
        while the guest waits for the cut's end, or dirties what the next round will have to read. hashed: how
        the replica hashes blocks.
        """
        self._hashed = hashed
        self._known = known
        self._log = log
        self._workers = workers
        self._seen = EMPTY
        self._room = hold
        self._held: list[list[tuple[DirtyBlocks, npt.NDArray[np.bool_], Content]]] = []
        """By round: what a unit is, and the buffer that it is in."""

    def round(self, disk: Disk, dirty: DirtyBlocks, progress: Progress = nothing) -> None:
        """Add the dirty blocks of one round as `disk` has them now.

        A block that an earlier round has put into the log is taken with the pages of both: in a log the
        newest row of a block stands alone.
        """
        units = self._units(dirty)
        if len(units) <= self._room:
            self._room -= len(units)
            held = [(*unit, _buffers.take()) for unit in units]
            for unit, _, buffer in held:
                progress(_read(disk, unit, buffer[: len(unit.blocks)]))
            self._held.append(held)
            return
        self.finish()  # in a log, the later row of a block stands
        self._run(disk, (partial(self._unit, unit, always, progress) for unit, always in units))

    def finish(self) -> None:
        """Add what rounds have kept in memory. Not needed after a scan."""
        held, self._held = self._held, []
        with ThreadPoolExecutor(self._workers) as pool:
            for units in held:
                for buffer in pool.map(lambda one: self._pack(*one), units):
                    _buffers.give_back(buffer)
                    self._room += 1

    def _units(self, dirty: DirtyBlocks) -> list[tuple[DirtyBlocks, npt.NDArray[np.bool_]]]:
        """A round in parts of UNIT_BLOCKS, and which blocks of each are in the log already."""
        seen, self._seen = self._seen, together(self._seen, dirty)
        earlier = masks_for(dirty.blocks, seen)
        masks = dirty.masks | earlier
        return [
            (DirtyBlocks(dirty.blocks[part], masks[part]), (earlier != 0)[part])
            for part in (slice(at, at + UNIT_BLOCKS) for at in range(0, len(dirty.blocks), UNIT_BLOCKS))
        ]

    def scan(self, disk: Disk, extent: Extent, progress: Progress = nothing) -> None:
        """Add the blocks of `extent` (whole blocks) that differ from what the replica has."""
        self._run(disk, (partial(self._scan_span, span, progress) for span in _scan_units(disk, extent)))

    def _run(self, disk: Disk, tasks: Iterator[_Task]) -> None:
        """Run the tasks; the first error stops them all."""
        with ExitStack() as stack:
            idle: SimpleQueue[_Worker] = SimpleQueue()
            for _ in range(self._workers):
                idle.put(_Worker(stack.enter_context(closing(disk.clone())), _buffers.take()))
            pool = stack.enter_context(ThreadPoolExecutor(self._workers))

            def one(task: _Task) -> None:
                worker = idle.get()
                try:
                    task(worker)
                finally:
                    idle.put(worker)

            waiting: set[Future[None]] = set()
            for task in tasks:
                waiting.add(pool.submit(one, task))
                if len(waiting) >= 2 * self._workers:
                    waiting = _settle(waiting, wait(waiting, return_when=FIRST_COMPLETED).done)
            _settle(waiting, waiting)
            while not idle.empty():
                _buffers.give_back(idle.get().content)

    def _unit(
        self, dirty: DirtyBlocks, always: npt.NDArray[np.bool_], progress: Progress, worker: _Worker
    ) -> None:
        amount = _read(worker.disk, dirty, worker.content[: len(dirty.blocks)])
        self._pack(dirty, always, worker.content)
        progress(amount)

    def _pack(self, dirty: DirtyBlocks, always: npt.NDArray[np.bool_], buffer: Content) -> Content:
        """Add the blocks that the buffer begins with; the buffer."""
        content = buffer[: len(dirty.blocks)]
        known = self._known.lookup(dirty.blocks)
        for frame in pack(dirty.blocks, content, dirty.masks, known, always, self._hashed):
            self._log().append(frame.pages, frame.rows)
        return buffer

    def _scan_span(self, span: Span, progress: Progress, worker: _Worker) -> None:
        dirty = every_block(span.offset // BLOCK, block_count(span.end))
        if not span.zero:
            self._unit(dirty, np.zeros(len(dirty.blocks), bool), progress, worker)
            return
        gone = dirty.blocks[self._known.lookup(dirty.blocks) != ZERO_HASH_ITEM]
        if len(gone):
            self._log().append(memoryview(b""), zero_rows(gone))
        progress(span.length)


def _read(disk: Disk, dirty: DirtyBlocks, content: Content) -> int:
    """The blocks, whole, with zeros behind the end of the disk. How many bytes the disk had of them."""
    extents = block_extents(dirty.blocks, disk.size)
    amount = total(extents)
    flat = content.reshape(-1).data
    disk.read_all(extents, flat[:amount])
    flat[amount:] = bytes(len(flat) - amount)
    return amount


def _settle(waiting: set[Future[None]], done: set[Future[None]]) -> set[Future[None]]:
    for future in done:
        future.result()
    return waiting - done


def _scan_units(disk: Disk, extent: Extent) -> Iterator[Span]:
    """The extent in whole blocks: data in units that a worker reads at once, zeros in large ones."""
    for span in whole_block_spans(disk.spans(extent), extent):
        unit = BLOCK * (1 << 20 if span.zero else UNIT_BLOCKS)
        for offset in range(span.offset, span.end, unit):
            yield Span(offset, min(unit, span.end - offset), span.zero)


def whole_block_spans(spans: Iterator[Span] | Sequence[Span], extent: Extent) -> Iterator[Span]:
    """The spans with edges on block boundaries; a block that is not all zeros counts as data."""
    start, zero = extent.offset, True
    for span in spans:
        if span.zero == zero:
            continue
        # Zeros end at the last whole block before data; data ends at the first boundary behind it.
        edge = span.offset // BLOCK * BLOCK if zero else -(-span.offset // BLOCK) * BLOCK
        if not zero and edge >= min(span.end, extent.end):
            continue
        edge = min(edge, extent.end)
        if edge > start:
            yield Span(start, edge - start, zero)
            start = edge
        zero = span.zero
    if extent.end > start:
        yield Span(start, extent.end - start, zero)
