"""What a merge does, as a pure function of head, chain and the points that stay (docs/protocol.md M1)."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec

from standby.replica.documents import MERGED, Head, Layer, LogReference, Merged, Record
from standby.replica.journal import StoredRecord
from standby.replica.plan import LogStack, stack_of


class Thresholds(NamedTuple):
    """When folding is worth its writing. What waits stays openable, and takes space.

    share: the floor moves when what lies above it is at least this share of what lies below.
    batch: between two points, folding again waits for as much as was folded before, or for this many points.
    """

    share: float
    batch: int


WORTHWHILE = Thresholds(share=0.25, batch=32)
AT_ONCE = Thresholds(share=0.0, batch=1)


class Range(NamedTuple):
    """Records first+1 to `last` become one. first 0: all up to `last`, and the floor moves there."""

    first: int
    last: int


class DiskFold(NamedTuple):
    """A layer to be made: what `range` changed on a disk of `size` bytes at its end."""

    range: Range
    disk: str
    size: int
    stack: LogStack


def plan_ranges(
    head: Head, records: Sequence[Record], keep: AbstractSet[int], thresholds: Thresholds = WORTHWHILE
) -> list[Range]:
    """The ranges to fold, oldest first; none overlaps another. records: the chain.

    keep: the points that stay. The newest point and what a hold names stay whatever it says.
    """
    points = [record.seq for record in records if record.is_point]
    if not points:
        return []
    held = {hold.seq for hold in head.holds if not head.gone(hold.seq)}
    stay = [seq for seq in points if seq in keep or seq in held or seq == points[-1]]
    ranges = []
    bottom = points[0]
    if stay[0] > bottom and not any(seq <= stay[0] for seq in held if seq != stay[0]):
        if _floor_moves(head, records, bottom, stay[0], thresholds):
            ranges.append(Range(0, stay[0]))
        elif _worth(head, records, Range(bottom, stay[0]), thresholds):
            ranges.append(Range(bottom, stay[0]))
    ranges += [
        candidate
        for candidate in map(Range, stay, stay[1:])
        if not any(candidate.first < seq < candidate.last for seq in held)
        and _worth(head, records, candidate, thresholds)
    ]
    return ranges


def disk_folds(head: Head, records: Sequence[Record], ranges: Sequence[Range]) -> list[DiskFold]:
    """The layers that the ranges need: one for each disk of a range's last record that it changed."""
    by_seq = {record.seq: record for record in records}
    folds = []
    for one in ranges:
        for state in by_seq[one.last].disks:
            stack = stack_of(head, records, state.id, after=one.first, last=one.last)
            # One that begins anew inside the range needs a layer to say so, even of nothing.
            if stack.logs or (stack.whole and one.first):
                folds.append(DiskFold(one, state.id, state.size, stack))
    return folds


def merged_head(
    head: Head, chain: Sequence[StoredRecord], ranges: Sequence[Range], layers: Sequence[Layer]
) -> Head:
    """The head that makes `ranges` and their new `layers` count (M3)."""
    digests = {stored.record.seq: stored.digest for stored in chain}
    changes = head.changes + 1
    new = [Merged(first=r.first, last=r.last, digest=digests[r.last], since=changes) for r in ranges]
    floor = next((r.last for r in ranges if r.first == 0), head.floor)
    covered = [one for one in head.merged if any(r.first <= one.first and one.last <= r.last for r in ranges)]
    gone = {one.last for one in covered}
    merged = sorted((*(m for m in head.merged if m not in covered), *new), key=lambda one: one.last)
    kept = [layer for layer in head.layers if layer.last not in gone]
    return msgspec.structs.replace(
        head,
        floor=floor,
        changes=changes,
        merged=tuple(merged),
        layers=(*kept, *layers),
        read_features=tuple(sorted({*head.read_features, MERGED})),
    )


def _floor_moves(head: Head, records: Sequence[Record], bottom: int, to: int, thresholds: Thresholds) -> bool:
    below = sum(log.size for log in _logs(head, records, 0, bottom))
    return sum(log.size for log in _logs(head, records, bottom, to)) >= thresholds.share * below


def _worth(head: Head, records: Sequence[Record], candidate: Range, thresholds: Thresholds) -> bool:
    inner = sum(record.is_point and candidate.first < record.seq < candidate.last for record in records)
    if not inner:
        return False
    logs = _logs(head, records, *candidate)
    layers = {layer.log.name for layer in head.layers}
    folded = sum(log.size for log in logs if log.name in layers)
    return inner >= thresholds.batch or sum(log.size for log in logs) - folded >= folded


def _logs(head: Head, records: Sequence[Record], after: int, last: int) -> list[LogReference]:
    disks = {state.id for record in records if record.seq <= last for state in record.disks}
    return [
        log for disk in sorted(disks) for log in stack_of(head, records, disk, after=after, last=last).logs
    ]
