"""Spans of a disk brought to block boundaries."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from standby.block.extent import Extent, Span
from standby.replica.format import BLOCK
from standby.replication.extract import whole_block_spans

STEP = BLOCK // 4


@st.composite
def disks(draw):
    """A range of whole blocks (the last may be cut short by the disk's end) and its spans in any pieces."""
    first = draw(st.integers(0, 3)) * BLOCK
    length = draw(st.integers(1, 40)) * STEP - draw(st.integers(0, STEP - 1))
    extent = Extent(first, length)
    inner = draw(st.sets(st.integers(1, max(1, length - 1)), max_size=12))
    edges = [0, *sorted(edge for edge in inner if edge < length), length]
    spans = [Span(first + a, b - a, draw(st.booleans())) for a, b in itertools.pairwise(edges)]
    return extent, spans


@given(disks())
def test_spans_cover_the_range_in_whole_blocks_and_zeros_are_zeros(case):
    extent, spans = case
    found = list(whole_block_spans(iter(spans), extent))
    at = extent.offset
    for span in found:
        assert span.offset == at
        assert span.length > 0
        assert span.offset % BLOCK == 0
        at = span.end
    assert at == extent.end
    data = [span for span in spans if not span.zero]
    for span in found:
        touched = [one for one in data if one.offset < span.end and span.offset < one.end]
        assert not (span.zero and touched), "data was taken for zeros"
    # And no block is read for nothing: each block of a data span has some data in it.
    for span in found:
        for block in () if span.zero else range(span.offset, span.end, BLOCK):
            assert any(one.offset < block + BLOCK and block < one.end for one in data)
