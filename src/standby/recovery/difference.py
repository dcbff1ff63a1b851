"""What an old disk differs in from a point, block by block and by hash, brought into an overlay on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from standby.block.disk import Disk, WritableDisk
from standby.block.extent import Extent, pieces
from standby.replica.format import BLOCK, BLOCK_SHIFT, ZERO_BLOCK_HASH, block_count
from standby.replica.image import REGION, HashColumn, Image

CHUNK = 4 << 20
"""Bytes that are read at once."""

Blocks = npt.NDArray[np.int64]
"""Numbers of blocks, ascending."""

Progress = Callable[[int], None]
"""Told the bytes of the disk dealt with since the last call."""

_ZERO = np.void(ZERO_BLOCK_HASH)


def bring_to(image: Image, overlay: WritableDisk, progress: Progress = lambda _: None) -> int:
    """Make the overlay read as the image; only what differs is fetched. The bytes fetched.

    Both have the same size. What the overlay holds already is compared like the rest, so an interrupted run
    goes on where it was.
    """
    fetched = 0
    for region in pieces([Extent(0, image.size)], REGION):
        first = region.offset >> BLOCK_SHIFT
        wanted = image.hashes(first, block_count(region.length))
        have = _hashes(image, overlay, region, progress)
        fetched += _fetch(image, overlay, first + np.flatnonzero(have != wanted), wanted, first)
    overlay.flush()
    return fetched


def bring_on(before: Image, image: Image, overlay: WritableDisk) -> int:
    """Make an overlay that reads as `before` read as `image`: by their hashes alone. The bytes fetched.

    Harmless to repeat, also when it was interrupted.
    """
    fetched = 0
    for region in pieces([Extent(0, image.size)], REGION):
        first, count = region.offset >> BLOCK_SHIFT, block_count(region.length)
        wanted = image.hashes(first, count)
        differing = first + np.flatnonzero(before.hashes(first, count) != wanted)
        fetched += _fetch(image, overlay, differing, wanted, first)
    overlay.flush()
    return fetched


def _hashes(image: Image, disk: Disk, region: Extent, progress: Progress) -> HashColumn:
    """The hash of each block of the region as the disk has it now, by the image's replica."""
    first = region.offset >> BLOCK_SHIFT
    found = np.full(block_count(region.length), ZERO_BLOCK_HASH, "V16")
    buffer = np.zeros(CHUNK, np.uint8)
    for span in disk.spans(region):
        if span.zero:
            progress(span.length)
            continue
        start = span.offset >> BLOCK_SHIFT << BLOCK_SHIFT
        end = min(-(-span.end // BLOCK) * BLOCK, region.end)
        for chunk in pieces([Extent(start, end - start)], CHUNK):
            disk.read(chunk.offset, buffer.data[: chunk.length])
            buffer[chunk.length :] = 0
            for at in range(0, chunk.length, BLOCK):
                digest = image.block_hash(buffer.data[at : at + BLOCK])
                found[((chunk.offset + at) >> BLOCK_SHIFT) - first] = digest
        progress(span.length)
    return found


def _fetch(image: Image, overlay: WritableDisk, blocks: Blocks, wanted: HashColumn, first: int) -> int:
    """Write these blocks as the image has them. wanted: their hashes, from block `first` on."""
    zero = wanted[blocks - first] == _ZERO
    for extent in _extents(blocks[zero], image.size):
        overlay.zero(extent)
    fetched = 0
    buffer = memoryview(bytearray(CHUNK))
    for chunk in pieces(_extents(blocks[~zero], image.size), CHUNK):
        image.read(chunk.offset, buffer[: chunk.length])
        overlay.write(chunk.offset, buffer[: chunk.length])
        fetched += chunk.length
    return fetched


def _extents(blocks: Blocks, size: int) -> Iterator[Extent]:
    """The blocks as extents of the disk, neighbours joined."""
    if not len(blocks):
        return
    edges = np.flatnonzero(np.diff(blocks) != 1) + 1
    for run in np.split(blocks, edges):
        offset = int(run[0]) << BLOCK_SHIFT
        yield Extent(offset, min((int(run[-1]) + 1) << BLOCK_SHIFT, size) - offset)
