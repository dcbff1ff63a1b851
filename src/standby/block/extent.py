"""Ranges of a disk's bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Extent(NamedTuple):
    """`length` bytes from byte `offset`; length is at least 1."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


class Span(NamedTuple):
    """An extent of which it is known whether it reads as zeros (`zero`) or may hold data."""

    offset: int
    length: int
    zero: bool

    @property
    def end(self) -> int:
        return self.offset + self.length


def total(extents: Iterable[Extent]) -> int:
    """Bytes covered by extents that do not overlap."""
    return sum(extent.length for extent in extents)


def union(extents: Iterable[Extent]) -> list[Extent]:
    """The same bytes as sorted extents that neither overlap nor touch."""
    merged: list[Extent] = []
    for extent in sorted(extents):
        if merged and extent.offset <= merged[-1].end:
            last = merged[-1]
            merged[-1] = Extent(last.offset, max(last.end, extent.end) - last.offset)
        else:
            merged.append(extent)
    return merged


def aligned(extents: Iterable[Extent], unit: int, size: int) -> list[Extent]:
    """The extents widened to whole units of `unit` bytes, cut at `size`, merged."""
    widened = []
    for extent in extents:
        start = extent.offset // unit * unit
        end = min(-(-extent.end // unit) * unit, size)
        if start < end:
            widened.append(Extent(start, end - start))
    return union(widened)


def pieces(extents: Iterable[Extent], unit: int) -> Iterator[Extent]:
    """The extents cut at every multiple of `unit`: no piece crosses one, in order."""
    for extent in extents:
        offset = extent.offset
        while offset < extent.end:
            end = min((offset // unit + 1) * unit, extent.end)
            yield Extent(offset, end - offset)
            offset = end
