"""Dirty extents as blocks and masks of pages, and what several rounds of them add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from standby.block.extent import Extent, aligned, pieces
from standby.replica.format import ALL_PAGES, BLOCK, BLOCK_SHIFT, PAGE, PAGE_SHIFT, PAGES_PER_BLOCK
from standby.replica.pack import Blocks, Masks

_BATCH_PAGES = 1 << 20
_PAGE_MASK = PAGES_PER_BLOCK - 1


class DirtyBlocks(NamedTuple):
    """blocks: ascending, each once. masks: bit i set if page i of the block is dirty."""

    blocks: Blocks
    masks: Masks

    @property
    def nbytes(self) -> int:
        """Dirty bytes, in whole pages."""
        return int(np.bitwise_count(self.masks).sum()) * PAGE


EMPTY = DirtyBlocks(np.zeros(0, np.uint32), np.zeros(0, np.uint16))


def dirty_blocks(extents: Iterable[Extent], size: int) -> DirtyBlocks:
    """The blocks that the extents touch, widened to whole pages of a disk of `size` bytes."""
    parts = [_batch(batch) for batch in _batches(aligned(extents, PAGE, size))]
    return EMPTY if not parts else _joined(parts)


def together(older: DirtyBlocks, newer: DirtyBlocks) -> DirtyBlocks:
    """Everything that is dirty in either."""
    return _joined([older, newer])


def masks_for(blocks: Blocks, of: DirtyBlocks) -> Masks:
    """Per block, its mask in `of`; 0 where it has none."""
    masks = np.zeros(len(blocks), np.uint16)
    if len(of.blocks):
        at = np.minimum(np.searchsorted(of.blocks, blocks), len(of.blocks) - 1)
        found = of.blocks[at] == blocks
        masks[found] = of.masks[at[found]]
    return masks


def _joined(parts: list[DirtyBlocks]) -> DirtyBlocks:
    blocks = np.concatenate([part.blocks for part in parts])
    masks = np.concatenate([part.masks for part in parts])
    order = np.argsort(blocks, kind="stable")
    blocks, masks = blocks[order], masks[order]
    first = np.flatnonzero(np.concatenate([[True], blocks[1:] != blocks[:-1]])) if len(blocks) else blocks
    return DirtyBlocks(blocks[first], np.bitwise_or.reduceat(masks, first) if len(blocks) else masks)


def _batches(extents: Iterable[Extent]) -> Iterator[list[Extent]]:
    """Groups of pieces of bounded size, so that a disk dirty all over does not become a list of pages."""
    batch: list[Extent] = []
    pages = 0
    for piece in pieces(extents, _BATCH_PAGES * PAGE):
        batch.append(piece)
        pages += -(-piece.length // PAGE)
        if pages >= _BATCH_PAGES:
            yield batch
            batch, pages = [], 0
    if batch:
        yield batch


def _batch(extents: list[Extent]) -> DirtyBlocks:
    starts = np.array([extent.offset >> PAGE_SHIFT for extent in extents], np.int64)
    counts = np.array([-(-extent.length // PAGE) for extent in extents], np.int64)
    before = np.cumsum(counts) - counts
    pages = np.arange(int(counts.sum())) - np.repeat(before - starts, counts)
    blocks = (pages >> (BLOCK_SHIFT - PAGE_SHIFT)).astype(np.uint32)
    bits = (np.uint16(1) << (pages & _PAGE_MASK).astype(np.uint16)).astype(np.uint16)
    first = np.flatnonzero(np.concatenate([[True], blocks[1:] != blocks[:-1]]))
    return DirtyBlocks(blocks[first], np.bitwise_or.reduceat(bits, first))


def every_block(first: int, end: int) -> DirtyBlocks:
    """All pages of the blocks from `first` to before `end`."""
    blocks = np.arange(first, end, dtype=np.uint32)
    return DirtyBlocks(blocks, np.full(len(blocks), ALL_PAGES, np.uint16))


def block_runs(blocks: Blocks) -> list[Extent]:
    """Ascending block numbers as runs of neighbours; offset and length count blocks."""
    if not len(blocks):
        return []
    breaks = np.flatnonzero(np.diff(blocks.astype(np.int64)) != 1) + 1
    starts = blocks[np.concatenate([[0], breaks])].tolist()
    stops = blocks[np.concatenate([breaks - 1, [len(blocks) - 1]])].tolist()
    return [Extent(start, stop + 1 - start) for start, stop in zip(starts, stops, strict=True)]


def block_extents(blocks: Blocks, size: int) -> list[Extent]:
    """Whole blocks as extents in bytes, neighbours joined, cut at the end of the disk."""
    return [
        Extent(run.offset * BLOCK, min(run.end * BLOCK, size) - run.offset * BLOCK)
        for run in block_runs(blocks)
    ]
