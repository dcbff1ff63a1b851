"""Dirty blocks and masks against sets of pages."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from standby.block.extent import Extent
from standby.replica.format import BLOCK, PAGE, PAGES_PER_BLOCK
from standby.replication.dirty import (
    EMPTY,
    DirtyBlocks,
    block_extents,
    block_runs,
    dirty_blocks,
    every_block,
    masks_for,
    together,
)

BLOCKS = 12
sizes = st.integers(1, BLOCKS * BLOCK)


@st.composite
def disks(draw, sets=1):
    """A disk's size and sorted extents on it that do not overlap."""
    size = draw(sizes)
    found = []
    for _ in range(sets):
        edges = sorted(draw(st.sets(st.integers(0, size), max_size=16)))
        found.append([Extent(a, b - a) for a, b in zip(edges[::2], edges[1::2], strict=False)])
    return size, *found


def pages_of(extents):
    return {page for e in extents for page in range(e.offset // PAGE, -(-e.end // PAGE))}


def pages_in(dirty: DirtyBlocks):
    return {
        int(block) * PAGES_PER_BLOCK + bit
        for block, mask in zip(dirty.blocks, dirty.masks, strict=True)
        for bit in range(PAGES_PER_BLOCK)
        if int(mask) >> bit & 1
    }


def well_formed(dirty):
    assert dirty.blocks.dtype == np.uint32
    assert dirty.masks.dtype == np.uint16
    assert (np.diff(dirty.blocks.astype(np.int64)) > 0).all()
    assert (dirty.masks != 0).all()


@given(disks())
def test_extents_become_the_pages_they_touch(case):
    size, extents = case
    dirty = dirty_blocks(extents, size)
    well_formed(dirty)
    assert pages_in(dirty) == pages_of(extents)
    assert dirty.nbytes == PAGE * len(pages_of(extents))


@given(disks(sets=2))
def test_two_rounds_together_are_the_pages_of_both(case):
    size, first, second = case
    both = together(dirty_blocks(first, size), dirty_blocks(second, size))
    well_formed(both)
    assert pages_in(both) == pages_of(first) | pages_of(second)


@given(disks(sets=2))
def test_masks_of_asked_blocks(case):
    size, asked, known = case
    blocks, of = dirty_blocks(asked, size).blocks, dirty_blocks(known, size)
    table = dict(zip(of.blocks.tolist(), of.masks.tolist(), strict=True))
    assert masks_for(blocks, of).tolist() == [table.get(block, 0) for block in blocks.tolist()]


def test_nothing_dirty():
    assert pages_in(dirty_blocks([], 1 << 40)) == set()
    assert masks_for(np.array([3], np.uint32), EMPTY).tolist() == [0]
    assert len(together(EMPTY, EMPTY).blocks) == 0
    assert block_extents(EMPTY.blocks, 5) == []


def test_more_pages_than_a_batch_holds():
    size = 5 << 30
    dirty = dirty_blocks([Extent(PAGE, size - PAGE)], size)
    assert dirty.nbytes == size - PAGE
    assert (len(dirty.blocks), int(dirty.masks[0])) == (size // BLOCK, 0xFFFE)


@given(st.sets(st.integers(0, BLOCKS - 1)), st.integers(1, BLOCK))
def test_runs_and_extents_of_blocks(numbers, last):
    blocks = np.array(sorted(numbers), np.uint32)
    runs = block_runs(blocks)
    assert [block for run in runs for block in range(run.offset, run.end)] == blocks.tolist()
    assert all(a.end < b.offset for a, b in itertools.pairwise(runs))
    size = (BLOCKS - 1) * BLOCK + last
    extents = block_extents(blocks, size)
    assert [(e.offset, e.end) for e in extents] == [
        (run.offset * BLOCK, min(run.end * BLOCK, size)) for run in runs
    ]


@given(st.integers(0, 50), st.integers(0, 50))
def test_every_block(first, more):
    dirty = every_block(first, first + more)
    assert pages_in(dirty) == set(range(first * PAGES_PER_BLOCK, (first + more) * PAGES_PER_BLOCK))
