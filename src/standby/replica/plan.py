"""Which logs make a disk at a point: pure functions over head and records (docs/protocol.md R4)."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Final, NamedTuple

from standby.errors import InvalidRequest
from standby.replica.documents import Head, LogReference, Record

UNFLAGGED: Final = "newest-unflagged"
WORDS: Final = ("newest", "newest-application", UNFLAGGED)
"""What names a point otherwise than its number."""


def choose_point(
    records: Sequence[Record],
    wanted: str,
    subject: str,
    flagged: Callable[[], Container[int]] = frozenset[int],
) -> Record:
    """The recovery point that `wanted` names: a number, or one of WORDS. flagged: points that are suspicious.

    Raises InvalidRequest naming the points that there are.
    """
    points = [record for record in records if record.is_point]
    if not points:
        raise InvalidRequest(
            "there is no recovery point yet", subject=subject, hint="wait for initial replication to finish"
        )
    if wanted == "newest":
        return points[-1]
    if wanted == UNFLAGGED:
        suspicious = flagged()
        clean = [point for point in points if point.seq not in suspicious]
        # The first points are never flagged: there is nothing to compare them with.
        return clean[-1]
    if wanted == "newest-application":
        consistent = [point for point in points if point.consistency == "application-consistent"]
        if consistent:
            return consistent[-1]
        raise InvalidRequest(
            "no recovery point is application-consistent", subject=subject, hint="use --point newest"
        )
    found = [point for point in points if str(point.seq) == wanted]
    if not found:
        raise InvalidRequest(
            f"there is no recovery point {wanted}",
            subject=subject,
            hint=f"choose one from {points[0].seq} to {points[-1].seq}; `standby replica points` lists them",
        )
    return found[0]


def logs_of(head: Head, records: Sequence[Record], seq: int, disk_id: str) -> list[LogReference]:
    """The logs that make `disk_id` as at record `seq`, oldest first (format.md 6).

    records: the chain from the floor to at least `seq`, without a gap.
    """
    return stack_of(head, records, disk_id, after=0, last=seq).logs


class LogStack(NamedTuple):
    """logs: oldest first. whole: nothing below them counts."""

    logs: list[LogReference]
    whole: bool


def stack_of(head: Head, records: Sequence[Record], disk_id: str, *, after: int, last: int) -> LogStack:
    """What the records after `after` up to `last` add to `disk_id` (all there is, from 0 on)."""
    merged = {one.last for one in head.merged}
    logs: list[LogReference] = []
    whole = after == 0
    for record in records:
        if record.seq > last:
            break
        if record.seq <= after or record.kind == "fence":
            continue
        state = record.disk(disk_id)
        if state is None:
            # The disk was taken from the machine: whatever has this id later begins anew.
            logs, whole = [], True
        elif record.seq in merged:
            layers = [layer for layer in head.layers if (layer.disk, layer.last) == (disk_id, record.seq)]
            if any(layer.first == 0 for layer in layers):
                logs, whole = [], True
            logs.extend(layer.log for layer in layers)
        else:
            logs.extend(state.logs)
    return LogStack(logs, whole)


class Needed(NamedTuple):
    """A log that some point needs, and the record from which on it counts."""

    seq: int
    disk: str
    log: LogReference


def needed_logs(head: Head, records: Sequence[Record]) -> list[Needed]:
    """Every log and layer that opening one of `records` reads; not those that layers stand for."""
    merged = {one.last for one in head.merged}
    own = [
        Needed(record.seq, state.id, log)
        for record in records
        if record.seq not in merged
        for state in record.disks
        for log in state.logs
    ]
    return own + [Needed(layer.last, layer.disk, layer.log) for layer in head.layers]


def last_state(records: Sequence[Record]) -> Record | None:
    """The newest record that says what the replica holds (anything but a fence)."""
    return next((record for record in reversed(records) if record.kind != "fence"), None)
