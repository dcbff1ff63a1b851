from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from standby.block.extent import Extent, aligned, pieces, total, union

SIZE = 300

extents = st.lists(
    st.builds(Extent, st.integers(0, SIZE - 40), st.integers(1, 40)),
    max_size=12,
)
units = st.integers(1, 70)


def bytes_of(some):
    return {byte for extent in some for byte in range(extent.offset, extent.end)}


@given(extents)
def test_a_union_covers_the_same_bytes_once(some):
    merged = union(some)
    assert bytes_of(merged) == bytes_of(some)
    assert total(merged) == len(bytes_of(some))


@given(extents)
def test_a_union_is_sorted_and_its_extents_do_not_touch(some):
    merged = union(some)
    assert all(before.end < after.offset for before, after in pairwise(merged))


@given(extents, units)
def test_aligned_extents_are_exactly_the_units_touched(some, unit):
    touched = {byte // unit for byte in bytes_of(some)}
    expected = {byte for byte in range(SIZE) if byte // unit in touched}
    assert bytes_of(aligned(some, unit, SIZE)) == expected


@given(extents, units)
def test_aligned_extents_end_with_the_disk(some, unit):
    smaller = SIZE // 2
    assert all(extent.end <= smaller and extent.length > 0 for extent in aligned(some, unit, smaller))


@given(extents, units)
def test_pieces_cover_the_extents_in_order_without_crossing_a_unit(some, unit):
    cut = list(pieces(some, unit))
    assert [byte for piece in cut for byte in range(piece.offset, piece.end)] == [
        byte for extent in some for byte in range(extent.offset, extent.end)
    ]
    assert all(piece.offset // unit == (piece.end - 1) // unit for piece in cut)
