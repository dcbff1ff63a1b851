"""A disk as at one point: many logs, read as one (docs/format.md 6, docs/protocol.md R4 to R6).

What each block is made of is worked out region by region, when it is first asked for, so that opening a
point costs the same for a disk of any size and memory stays bounded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from standby.block.extent import Extent, Span, pieces
from standby.errors import Damaged
from standby.replica.format import (
    BLOCK,
    BLOCK_SHIFT,
    HASH_BYTES,
    NO_FRAME,
    PAGE,
    PAGES_PER_BLOCK,
    ROW,
    ZERO_BLOCK_HASH,
    BlockHash,
    Rows,
    block_count,
    block_hash,
)
from standby.replica.log import LogReader

REGION_BLOCKS: Final = 16_384
REGION: Final = REGION_BLOCKS * BLOCK
_CHUNK_CACHE: Final = 160 << 20
_REGION_CACHE: Final = 64 << 20
_FRAME_CACHE: Final = 64 << 20

_DAMAGE_HINT: Final = "`standby replica verify` lists all damage; an older point may be whole"

HashColumn = npt.NDArray[np.void]
"""One 16-byte hash per block."""


class RegionRows(NamedTuple):
    """rows: sorted by block, newest first within a block. needed: pages taken from the row. log: its log."""

    rows: Rows
    needed: npt.NDArray[np.uint16]
    log: npt.NDArray[np.uint32]

    @property
    def nbytes(self) -> int:
        return 64 + self.rows.nbytes + self.needed.nbytes + self.log.nbytes


class Stack:
    """Logs over one another, oldest first, and what was decoded of them; an image and its clones share one."""

    def __init__(self, logs: Sequence[LogReader]) -> None:
        self.logs = tuple(logs)
        self.block_hash: BlockHash = self.logs[0].block_hash if self.logs else block_hash
        self._lock = threading.Lock()
        self._chunks: LRUCache[tuple[int, int], Rows] = LRUCache(_CHUNK_CACHE, lambda rows: rows.nbytes + 64)
        self._regions: LRUCache[int, RegionRows] = LRUCache(_REGION_CACHE, lambda region: region.nbytes)
        self._frames: LRUCache[tuple[int, int], memoryview] = LRUCache(_FRAME_CACHE, len)

    def region(self, number: int) -> RegionRows:
        with self._lock:
            region = self._regions.get(number)
        if region is None:
            region = self._resolve(number * REGION_BLOCKS, (number + 1) * REGION_BLOCKS)
            with self._lock:
                self._regions[number] = region
        return region

    def touched(self) -> list[int]:
        """The regions that any log has a block of, in order. Reads every index once."""
        found: set[int] = set()
        for log, reader in enumerate(self.logs):
            for number in range(reader.chunks):
                found.update(np.unique(self._chunk(log, number)["block"] // REGION_BLOCKS).tolist())
        return sorted(found)

    def frame(self, log: int, number: int) -> memoryview:
        key = (log, number)
        with self._lock:
            raw = self._frames.get(key)
        if raw is None:
            raw = memoryview(self.logs[log].frame(number))
            with self._lock:
                self._frames[key] = raw
        return raw

    def _chunk(self, log: int, number: int) -> Rows:
        key = (log, number)
        with self._lock:
            rows = self._chunks.get(key)
        if rows is None:
            rows = self.logs[log].chunk(number)
            with self._lock:
                if rows.nbytes < _CHUNK_CACHE:
                    self._chunks[key] = rows
        return rows

    def _rows_between(self, log: int, first: int, end: int) -> Iterator[Rows]:
        sections = self.logs[log].sections[1:]
        low = int(np.searchsorted(sections["last"], first))
        high = int(np.searchsorted(sections["first"], end))
        for number in range(low, high):
            rows = self._chunk(log, number)
            start, stop = np.searchsorted(rows["block"], (first, end))
            if start < stop:
                yield rows[start:stop]

    def _resolve(self, first: int, end: int) -> RegionRows:
        """Newest to oldest, keep of each row only the pages that no newer row has."""
        covered = np.zeros(end - first, np.uint16)
        parts: list[tuple[Rows, npt.NDArray[np.uint16], int]] = []
        for log in range(len(self.logs) - 1, -1, -1):
            for rows in self._rows_between(log, first, end):
                at = rows["block"] - first
                needed = rows["present"] & ~covered[at]
                covered[at] |= rows["present"]
                useful = needed != 0
                if useful.any():
                    parts.append((rows[useful], needed[useful], log))
        if not parts:
            return RegionRows(np.zeros(0, ROW), np.zeros(0, np.uint16), np.zeros(0, np.uint32))
        rows = np.concatenate([part[0] for part in parts])
        order = np.argsort(rows["block"], kind="stable")
        needed = np.concatenate([part[1] for part in parts])
        logs = np.concatenate([np.full(len(part[0]), part[2], np.uint32) for part in parts])
        return RegionRows(rows[order], needed[order], logs[order])


class Image:
    """A read-only `Disk` made of logs, oldest first.

    Where a whole block is read, it is compared with its hash (R6); raises Damaged naming log and block.
    """

    def __init__(self, logs: Sequence[LogReader], size: int, *, shared: Stack | None = None) -> None:
        self._shared = shared or Stack(logs)
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_hash(self) -> BlockHash:
        """How the replica hashes blocks."""
        return self._shared.block_hash

    def clone(self) -> Image:
        return Image((), self._size, shared=self._shared)

    def close(self) -> None:
        """Nothing to let go of: logs are read by ranges, without a connection of their own."""

    def read(self, offset: int, into: memoryview) -> None:
        if offset < 0 or offset + len(into) > self._size:
            raise ValueError(f"read of {len(into)} bytes at {offset} of a disk of {self._size}")
        done = 0
        for piece in pieces([Extent(offset, len(into))], REGION):
            self._read_region(piece, into[done : done + piece.length])
            done += piece.length

    def read_all(self, extents: Sequence[Extent], into: memoryview) -> None:
        done = 0
        for extent in extents:
            self.read(extent.offset, into[done : done + extent.length])
            done += extent.length

    def spans(self, extent: Extent) -> Iterator[Span]:
        last: Span | None = None
        for piece in pieces([extent], REGION):
            for span in self._region_spans(piece):
                if last and last.zero == span.zero:
                    last = Span(last.offset, last.length + span.length, last.zero)
                else:
                    if last:
                        yield last
                    last = span
        if last:
            yield last

    def hashes(self, first: int, count: int) -> HashColumn:
        """The hash of each block from `first` on; blocks that no log mentions hash as zeros do."""
        column = np.full(count, ZERO_BLOCK_HASH, f"V{HASH_BYTES}")
        for piece in pieces([Extent(first, count)], REGION_BLOCKS):
            rows = self._shared.region(piece.offset // REGION_BLOCKS).rows
            start, stop = np.searchsorted(rows["block"], (piece.offset, piece.end))
            # Newest first within a block, so writing them backwards leaves the newest.
            some = rows[start:stop][::-1]
            column[some["block"] - first] = some["hash"]
        return column

    def held(self, blocks: npt.NDArray[np.uint32]) -> int:
        """How many of these blocks are not all zeros, by their hashes; blocks behind the disk's end are."""
        count = 0
        for number in np.unique(blocks // REGION_BLOCKS).tolist():
            first = number * REGION_BLOCKS
            known = self.hashes(first, REGION_BLOCKS)
            here = blocks[(blocks >= first) & (blocks < first + REGION_BLOCKS)] - first
            count += int((known[here] != np.void(ZERO_BLOCK_HASH)).sum())
        return count

    def wrong_zero_blocks(self, first: int, count: int) -> list[tuple[int, str]]:
        """Blocks of this range, all of whose pages read as zeros, whose hash is another; with their log."""
        wrong: list[tuple[int, str]] = []
        for piece in pieces([Extent(first, count)], REGION_BLOCKS):
            region = self._shared.region(piece.offset // REGION_BLOCKS)
            low, high = np.searchsorted(region.rows["block"], (piece.offset, piece.end))
            rows, logs = region.rows[low:high], region.log[low:high]
            if not len(rows):
                continue
            newest = np.ones(len(rows), bool)
            newest[1:] = rows["block"][1:] != rows["block"][:-1]
            has_data = (region.needed[low:high] & ~rows["zero"]) != 0
            zeros = ~np.logical_or.reduceat(has_data, np.flatnonzero(newest))
            for row, log in zip(rows[newest][zeros], logs[newest][zeros].tolist(), strict=True):
                if bytes(row["hash"]) != ZERO_BLOCK_HASH:
                    wrong.append((int(row["block"]), self._shared.logs[log].subject))
        return wrong

    def _read_region(self, piece: Extent, into: memoryview) -> None:
        start = piece.offset // PAGE * PAGE
        end = -(-piece.end // PAGE) * PAGE
        if (start, end) == (piece.offset, piece.end):
            self._fill(start, np.frombuffer(into, np.uint8).reshape(-1, PAGE))
        else:
            pages = np.empty(((end - start) // PAGE, PAGE), np.uint8)
            self._fill(start, pages)
            into[:] = pages.data.cast("B")[piece.offset - start : piece.end - start]

    def _fill(self, start: int, out: npt.NDArray[np.uint8]) -> None:
        """Fill whole pages from byte `start` on; all within one region."""
        out[:] = 0
        first_page = start // PAGE
        end_page = first_page + len(out)
        region = self._shared.region(start // REGION)
        low, high = np.searchsorted(
            region.rows["block"], (first_page // PAGES_PER_BLOCK, -(-end_page // PAGES_PER_BLOCK))
        )
        rows = region.rows[low:high]
        columns = (rows["block"], rows["present"], rows["zero"], rows["frame"], rows["position"])
        lists = [column.tolist() for column in columns]
        needed, logs = region.needed[low:high].tolist(), region.log[low:high].tolist()
        key, pages = (-1, -1), np.empty((0, PAGE), np.uint8)
        for block, present, zero, frame, position, need, log in zip(*lists, needed, logs, strict=True):
            wanted = need & ~zero
            if not wanted or frame == NO_FRAME:
                continue
            if (log, frame) != key:
                key = (log, frame)
                pages = self._pages(log, frame, block)
            self._take(
                out, block * PAGES_PER_BLOCK - first_page, pages[position:], present & ~zero, wanted, log
            )
        self._check(start, out, rows, logs)

    def _pages(self, log: int, frame: int, block: int) -> npt.NDArray[np.uint8]:
        """A frame's pages. Raises Damaged naming the block that they are read for."""
        try:
            return np.frombuffer(self._shared.frame(log, frame), np.uint8).reshape(-1, PAGE)
        except Damaged as error:
            raise Damaged(
                f"block {block} (byte {block << BLOCK_SHIFT}): {error.cause}",
                subject=error.subject,
                hint=error.hint or _DAMAGE_HINT,
            ) from error

    def _take(
        self,
        out: npt.NDArray[np.uint8],
        at: int,
        stored: npt.NDArray[np.uint8],
        have: int,
        wanted: int,
        log: int,
    ) -> None:
        """Copy the `wanted` pages of one block, which begins at page `at` of `out`, from those it has."""
        if len(stored) < have.bit_count():
            raise Damaged("a row points behind the end of its frame", subject=self._shared.logs[log].subject)
        if wanted == have and _contiguous(wanted) and at >= 0:
            begin = (wanted & -wanted).bit_length() - 1
            target = out[at + begin : at + begin + wanted.bit_count()]
            target[:] = stored[: len(target)]
            return
        position = 0
        for page in range(PAGES_PER_BLOCK):
            bit = 1 << page
            if have & bit:
                if wanted & bit and 0 <= at + page < len(out):
                    out[at + page] = stored[position]
                position += 1

    def _check(self, start: int, out: npt.NDArray[np.uint8], rows: Rows, logs: list[int]) -> None:
        """Compare every whole block in `out` with its newest hash."""
        first = -(-start // BLOCK)
        whole = (start + len(out) * PAGE) // BLOCK
        at_end = start + len(out) * PAGE >= self._size
        flat = out.reshape(-1)
        previous = -1
        for block, expected, log in zip(rows["block"].tolist(), rows["hash"], logs, strict=True):
            if block == previous or block < first or (block >= whole and not at_end):
                continue
            previous = block
            begin = (block << BLOCK_SHIFT) - start
            content = flat[begin : begin + BLOCK]
            if len(content) < BLOCK:
                content = np.concatenate([content, np.zeros(BLOCK - len(content), np.uint8)])
            if self.block_hash(content.data) != bytes(expected):
                raise Damaged(
                    f"block {block} (byte {block << BLOCK_SHIFT}) is not what was written",
                    subject=self._shared.logs[log].subject,
                    hint=_DAMAGE_HINT,
                )

    def _region_spans(self, piece: Extent) -> Iterator[Span]:
        first, end = piece.offset >> BLOCK_SHIFT, block_count(piece.end)
        region = self._shared.region(piece.offset // REGION)
        low, high = np.searchsorted(region.rows["block"], (first, end))
        rows = region.rows[low:high]
        data = np.zeros(end - first, bool)
        data[rows["block"][(region.needed[low:high] & ~rows["zero"]) != 0] - first] = True
        edges = np.flatnonzero(np.diff(data)) + 1
        starts = np.concatenate([[0], edges])
        stops = np.concatenate([edges, [len(data)]])
        for begin, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            offset = max(piece.offset, (first + begin) << BLOCK_SHIFT)
            yield Span(offset, min(piece.end, (first + stop) << BLOCK_SHIFT) - offset, not data[begin])


def _contiguous(mask: int) -> bool:
    """Whether the set bits of a non-zero mask follow one another."""
    shifted = mask >> ((mask & -mask).bit_length() - 1)
    return shifted & (shifted + 1) == 0
