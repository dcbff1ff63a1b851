"""Which logs make a disk at a point: pure functions over head and records (docs/protocol.md R4)."""

from __future__ import annotations

from collections.abc import Sequence

from standby.errors import InvalidRequest
from standby.replica.documents import Head, LogReference, Record


def choose_point(records: Sequence[Record], wanted: str, subject: str) -> Record:
    """The recovery point that `wanted` names: a number, `newest` or `newest-application`.

    Raises InvalidRequest naming the points that there are.
    """
    points = [record for record in records if record.is_point]
    if not points:
        raise InvalidRequest(
            "there is no recovery point yet", subject=subject, hint="wait for initial replication to finish"
        )
    if wanted == "newest":
        return points[-1]
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
    logs = [layer.log for layer in head.layers if layer.disk == disk_id and layer.last == head.floor]
    merged = bool(logs)
    for record in records:
        if record.seq > seq:
            break
        if record.kind == "fence" or (merged and record.seq == head.floor):
            continue
        state = record.disk(disk_id)
        if state is None:
            # The disk was taken from the machine: whatever has this id later begins anew.
            logs = []
        else:
            logs.extend(state.logs)
    return logs


def last_state(records: Sequence[Record]) -> Record | None:
    """The newest record that says what the replica holds (anything but a fence)."""
    return next((record for record in reversed(records) if record.kind != "fence"), None)
