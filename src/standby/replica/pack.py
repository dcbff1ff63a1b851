"""From blocks as read to what a log stores of them: zero pages, hashes, rows and frames."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from standby.replica.format import (
    ALL_PAGES,
    BLOCK,
    FRAME_PAGES,
    HASH_BYTES,
    NO_FRAME,
    PAGE,
    PAGES_PER_BLOCK,
    ROW,
    ZERO_BLOCK_HASH,
    BlockHash,
    Rows,
    block_hash,
)

Blocks = npt.NDArray[np.uint32]
Masks = npt.NDArray[np.uint16]
Content = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.void]

ZERO_HASH_ITEM: Final = np.void(ZERO_BLOCK_HASH)
_WORDS: Final = PAGE // 8


class Frame(NamedTuple):
    """What `LogWriter.append` takes. pages: whole pages, empty if all of them are zeros."""

    pages: memoryview
    rows: Rows


def pack(
    blocks: Blocks,
    content: Content,
    present: Masks,
    known: Hashes,
    always: npt.NDArray[np.bool_],
    hashed: BlockHash = block_hash,
) -> Iterator[Frame]:
    """The frames that hold those blocks which differ from what is known of them.

    blocks: their numbers, ascending. content: (n, BLOCK) bytes. present: the pages to store of each.
    known: the hash that the replica has of each block. always: take the block even if its hash is known.
    hashed: how the replica hashes blocks.
    """
    zero = _zero_masks(content)
    hashes = _hashes(content, zero, hashed)
    chosen = np.flatnonzero((hashes != known) | always)
    rows = np.zeros(len(chosen), ROW)
    rows["block"] = blocks[chosen]
    rows["present"] = present[chosen]
    rows["zero"] = present[chosen] & zero[chosen]
    rows["frame"] = NO_FRAME
    rows["hash"] = hashes[chosen]
    stored = rows["present"] & ~rows["zero"]
    pages = np.bitwise_count(stored).astype(np.int64)
    ends = np.cumsum(pages)
    first = 0
    while first < len(rows):
        base = int(ends[first] - pages[first])
        stop = max(first + 1, int(np.searchsorted(ends, base + FRAME_PAGES, side="right")))
        part = rows[first:stop]
        part["position"] = np.where(pages[first:stop] > 0, ends[first:stop] - pages[first:stop] - base, 0)
        taken = content[chosen[first:stop]].reshape(-1, PAGE)[_page_flags(stored[first:stop]).reshape(-1)]
        yield Frame(taken.data.cast("B") if len(taken) else memoryview(b""), part)
        first = stop


def zero_rows(blocks: Blocks) -> Rows:
    """Rows that say: these blocks are all zeros now."""
    rows = np.zeros(len(blocks), ROW)
    rows["block"] = blocks
    rows["present"] = rows["zero"] = ALL_PAGES
    rows["frame"] = NO_FRAME
    rows["hash"] = ZERO_HASH_ITEM
    return rows


def _zero_masks(content: Content) -> Masks:
    """Per block, the mask of its pages that are all zeros."""
    words = content.view(np.uint64).reshape(len(content), PAGES_PER_BLOCK, _WORDS)
    data = np.packbits(words.any(axis=2), axis=1, bitorder="little").view(np.uint16).reshape(-1)
    return ~data


def _page_flags(masks: Masks) -> npt.NDArray[np.bool_]:
    """(n, PAGES_PER_BLOCK): whether each page is in the block's mask."""
    bits = np.unpackbits(masks.view(np.uint8).reshape(len(masks), 2), axis=1, bitorder="little")
    return bits.astype(bool)


def _hashes(content: Content, zero: Masks, hashed: BlockHash) -> Hashes:
    hashes = np.full(len(content), ZERO_HASH_ITEM, f"V{HASH_BYTES}")
    for number in np.flatnonzero(zero != ALL_PAGES).tolist():
        hashes[number] = np.void(hashed(content[number].data))
    return hashes


def empty_content(count: int) -> Content:
    """Room for `count` blocks."""
    return np.zeros((count, BLOCK), np.uint8)
