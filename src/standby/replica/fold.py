"""Many logs of one disk into few: newest wins, masks joined, region by region (docs/protocol.md M2).

Nothing is passed on unproved. Where a block is known as a whole it is compared with its hash; where only some
of its pages are known, the caller has compared the logs with their SHA-256.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from standby.errors import Damaged
from standby.replica.format import (
    ALL_PAGES,
    BLOCK_SHIFT,
    CHUNK_ROWS,
    FRAME_PAGES,
    NO_FRAME,
    PAGE,
    PAGES_PER_BLOCK,
    ROW,
    ZERO_BLOCK_HASH,
    Rows,
)
from standby.replica.image import REGION_BLOCKS, RegionRows, Stack
from standby.replica.log import LogReader, LogWriter, SealedLog

WINDOW_REGIONS: Final = CHUNK_ROWS // REGION_BLOCKS
"""A layer that holds a whole disk is cut at every 4 GiB: what did not change there is taken over as it is."""

PART_BYTES: Final = 1 << 30
PART_ROWS: Final = 1 << 18
"""Another layer begins behind so many stored bytes or rows, so that folding needs little local disk and memory."""

_BITS: Final = ((np.arange(1 << PAGES_PER_BLOCK)[:, None] >> np.arange(PAGES_PER_BLOCK)) & 1).astype(bool)


class Kept(NamedTuple):
    """All of log number `log` is still what counts in its window: no new layer is needed for it."""

    log: int


class Tally:
    """copied, packed: frames taken over as they are, and compressed anew."""

    def __init__(self) -> None:
        self.copied = 0
        self.packed = 0


def fold(
    logs: Sequence[LogReader],
    new_writer: Callable[[], LogWriter],
    *,
    whole: bool,
    reusable: frozenset[int] = frozenset(),
    tally: Tally | None = None,
) -> Iterator[SealedLog | Kept]:
    """The new layers, one after the other, none with a block of another. logs: oldest first.

    whole: nothing lies below them, so blocks of zeros are left out. reusable: numbers of logs that may be
    `Kept` where nothing else has a say. Raises Damaged, and then nothing may be used; SpoolFull.
    """
    stack = Stack(logs)
    tally = tally or Tally()
    writer: LogWriter | None = None
    window, taken_over = -1, False
    try:
        for number in stack.touched():
            if whole and number // WINDOW_REGIONS != window:
                window = number // WINDOW_REGIONS
                if writer:
                    full, writer = writer, None
                    yield full.seal()
                sole = _sole(stack, window)
                taken_over = sole in reusable
                if sole is not None and taken_over:
                    yield Kept(sole)
            if taken_over:
                continue
            writer = writer or new_writer()
            _Folding(stack, writer, whole, tally).region(number)
            if not whole and (writer.stored >= PART_BYTES or writer.rows >= PART_ROWS):
                full, writer = writer, None
                yield full.seal()
        if writer:
            full, writer = writer, None
            yield full.seal()
    finally:
        if writer:
            writer.abandon()


def _sole(stack: Stack, window: int) -> int | None:
    """The log that alone has a say in a window, and has no block elsewhere."""
    numbers = range(window * WINDOW_REGIONS, (window + 1) * WINDOW_REGIONS)
    logs = {int(log) for number in numbers for log in np.unique(stack.region(number).log)}
    if len(logs) != 1:
        return None
    (log,) = logs
    chunks = stack.logs[log].sections[1:]
    first, last = int(chunks["first"].min()), int(chunks["last"].max())
    inside = first // CHUNK_ROWS == window == last // CHUNK_ROWS
    return log if inside else None


class _Folding:
    """One region into one writer."""

    def __init__(self, stack: Stack, writer: LogWriter, whole: bool, tally: Tally) -> None:
        self._stack = stack
        self._writer = writer
        self._whole = whole
        self._tally = tally

    def region(self, number: int) -> None:
        region = self._stack.region(number)
        if not len(region.rows):
            return
        starts = np.flatnonzero(np.diff(region.rows["block"], prepend=np.uint32(0xFFFF_FFFF)))
        rows = np.zeros(len(starts), ROW)
        rows["block"], rows["hash"] = region.rows["block"][starts], region.rows["hash"][starts]
        rows["present"] = np.bitwise_or.reduceat(region.needed, starts)
        rows["zero"] = np.bitwise_or.reduceat(region.needed & region.rows["zero"], starts)
        rows["frame"] = NO_FRAME
        stored = rows["present"] & ~rows["zero"]
        ends = np.append(starts[1:], len(region.rows))
        done = self._copy_frames(region, rows, stored, starts, ends)
        self._add_zeros(region, rows[stored == 0], starts[stored == 0])
        self._assemble(region, rows, starts, ends, np.flatnonzero(~done & (stored != 0)))

    def _add_zeros(self, region: RegionRows, rows: Rows, starts: npt.NDArray[np.int64]) -> None:
        if not self._whole:
            if len(rows):
                self._writer.append(memoryview(b""), rows)
            return
        for row, start in zip(rows, starts.tolist(), strict=True):
            if bytes(row["hash"]) != ZERO_BLOCK_HASH:
                raise self._damage(region, start, "is told to be zeros but is not")

    def _copy_frames(
        self,
        region: RegionRows,
        rows: Rows,
        stored: npt.NDArray[np.uint16],
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.bool_]:
        """Take over, as they are, the frames of which every page still counts; which blocks that did."""
        old = region.rows[starts]
        sole = (ends - starts == 1) & (old["present"] == rows["present"]) & (stored != 0)
        places = np.flatnonzero(sole)
        key = region.log[starts[places]].astype(np.uint64) << np.uint64(32) | old["frame"][places]
        frames, inverse = np.unique(key, return_inverse=True)
        pages = np.bincount(inverse, np.bitwise_count(stored[places]), len(frames)).astype(np.int64)
        order = np.argsort(inverse, kind="stable")
        cuts = np.searchsorted(inverse[order], np.arange(len(frames) + 1))
        done = np.zeros(len(rows), bool)
        for index, packed_key in enumerate(frames.tolist()):
            log, frame = packed_key >> 32, packed_key & 0xFFFF_FFFF
            reader = self._stack.logs[log]
            if frame >= len(reader.frames) or int(reader.frames["pages"][frame]) != pages[index]:
                continue
            blocks = places[order[cuts[index] : cuts[index + 1]]]
            packed = reader.packed(frame)
            raw = np.frombuffer(reader.unpack(frame, packed), np.uint8).reshape(-1, PAGE)
            self._prove(region, rows, stored, starts, old["position"], blocks, raw)
            copies = rows[blocks]
            copies["position"] = old["position"][blocks]
            self._writer.append_packed(packed, len(raw), copies)
            self._tally.copied += 1
            done[blocks] = True
        return done

    def _prove(
        self,
        region: RegionRows,
        rows: Rows,
        stored: npt.NDArray[np.uint16],
        starts: npt.NDArray[np.int64],
        positions: npt.NDArray[np.uint16],
        blocks: npt.NDArray[np.int64],
        raw: npt.NDArray[np.uint8],
    ) -> None:
        """Compare the blocks of one frame with their hashes."""
        for at in blocks.tolist():
            mask = int(stored[at])
            pages = raw[int(positions[at]) : int(positions[at]) + mask.bit_count()]
            if len(pages) < mask.bit_count():
                raise self._damage(region, int(starts[at]), "points behind the end of its frame")
            if mask != ALL_PAGES:
                block = np.zeros((PAGES_PER_BLOCK, PAGE), np.uint8)
                block[_BITS[mask]] = pages
                pages = block
            self._compare(region, rows, at, int(starts[at]), pages)

    def _assemble(
        self,
        region: RegionRows,
        rows: Rows,
        starts: npt.NDArray[np.int64],
        ends: npt.NDArray[np.int64],
        blocks: npt.NDArray[np.int64],
    ) -> None:
        """Blocks of pages from several frames, into new frames."""
        gathered: list[npt.NDArray[np.uint8]] = []
        members: list[int] = []
        filled = 0

        def flush() -> None:
            nonlocal gathered, members, filled
            if members:
                self._writer.append(np.concatenate(gathered).data.cast("B"), rows[members])
                self._tally.packed += 1
            gathered, members, filled = [], [], 0

        for at in blocks.tolist():
            block = np.zeros((PAGES_PER_BLOCK, PAGE), np.uint8)
            for index in range(int(starts[at]), int(ends[at])):
                self._fill(block, region, index)
            self._compare(region, rows, at, int(starts[at]), block)
            mask = int(rows["present"][at] & ~rows["zero"][at])
            if filled + mask.bit_count() > FRAME_PAGES:
                flush()
            rows["position"][at] = filled
            gathered.append(block[_BITS[mask]])
            members.append(at)
            filled += mask.bit_count()
        flush()

    def _fill(self, block: npt.NDArray[np.uint8], region: RegionRows, index: int) -> None:
        """Put those pages into the block that count from row `index`."""
        row = region.rows[index]
        wanted = int(region.needed[index] & ~row["zero"])
        if not wanted:
            return
        have = int(row["present"] & ~row["zero"])
        log = int(region.log[index])
        if int(row["frame"]) >= len(self._stack.logs[log].frames):
            raise self._damage(region, index, "points to a frame that is not there")
        pages = np.frombuffer(self._stack.frame(log, int(row["frame"])), np.uint8).reshape(-1, PAGE)
        pages = pages[int(row["position"]) : int(row["position"]) + have.bit_count()]
        if len(pages) < have.bit_count():
            raise self._damage(region, index, "points behind the end of its frame")
        block[_BITS[wanted]] = pages[_BITS[wanted][_BITS[have]]]

    def _compare(
        self, region: RegionRows, rows: Rows, at: int, start: int, block: npt.NDArray[np.uint8]
    ) -> None:
        """A block that is known as a whole must have its hash. start: its newest row."""
        if not self._whole and int(rows["present"][at]) != ALL_PAGES:
            return
        if self._stack.block_hash(np.ascontiguousarray(block).reshape(-1).data) != bytes(rows["hash"][at]):
            raise self._damage(region, start, "is not what was written")

    def _damage(self, region: RegionRows, index: int, problem: str) -> Damaged:
        block = int(region.rows["block"][index])
        return Damaged(
            f"block {block} (byte {block << BLOCK_SHIFT}) {problem}, so nothing is merged",
            subject=self._stack.logs[int(region.log[index])].subject,
            hint="`standby replica scrub` lists all damage; nothing was changed",
        )
