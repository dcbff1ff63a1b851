"""How much may wait for the store. Pure: sizes in, a verdict out; `forecast` has the sentences for people.

Changes are tracked in the machine's own bitmaps, so a spool that may not grow loses nothing: points are missed,
and the first one after takes all changes along. Only where logs take the room that the guest's own images
need are they dropped, and then the disk is compared by hashes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from standby.replication.forecast import limit_of
from standby.replication.policy import Policy


class Volume(NamedTuple):
    """Where logs lie: a directory, the file system that it is on, and the bytes that are free there."""

    path: str
    device: int
    free: int


def begins_at(policy: Policy) -> int:
    """Bytes that must be free for another log to be begun: as much again as must stay free, for a log that
    begins must also find the room to end."""
    return 2 * policy.reserve


def full(
    policy: Policy, sizes: Mapping[str, int], queued: Mapping[str, int], volumes: Mapping[str, Volume]
) -> bool:
    """Whether no further log may be begun.

    sizes: of the disks, in bytes. queued: bytes of each disk's logs that wait. volumes: where each disk's
    logs lie (a disk that is missing there is not looked at).

    A disk's backlog is the bytes of its queued logs against its virtual size (Azure Site Recovery: 50 % of
    the disk's size).
    """
    return any(
        waiting >= limit_of(size, policy.backlog_percent)
        for disk, size in sizes.items()
        if (waiting := queued.get(disk, 0))
    ) or any(volumes[disk].free < begins_at(policy) for disk in sizes if disk in volumes)


def crowded(policy: Policy, queued: Mapping[str, int], volumes: Mapping[str, Volume]) -> tuple[str, ...]:
    """Disks whose queued logs must give way: on volumes that are short of the reserve and would not be without
    them."""
    by_device: dict[int, list[str]] = {}
    for disk in sorted(volumes):
        if queued.get(disk):
            by_device.setdefault(volumes[disk].device, []).append(disk)
    return tuple(
        disk
        for disks in by_device.values()
        if volumes[disks[0]].free
        < policy.reserve
        <= volumes[disks[0]].free + sum(queued[one] for one in disks)
        for disk in disks
    )
