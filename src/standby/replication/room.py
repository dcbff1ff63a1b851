"""How much may wait for the store. Pure: sizes in, a verdict out.

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
    """Where logs lie: a file system, and the bytes that are free on it."""

    device: int
    free: int


class Room(NamedTuple):
    """full: why no further log may be written, or "". crowded: disks whose queued logs must give way."""

    full: str
    crowded: tuple[str, ...]


def room(
    policy: Policy, sizes: Mapping[str, int], queued: Mapping[str, int], volumes: Mapping[str, Volume]
) -> Room:
    """sizes: of the disks, in bytes. queued: bytes of each disk's logs that wait. volumes: where each disk's
    logs lie (a disk that is missing there is not looked at).

    A disk's backlog is the bytes of its queued logs against its virtual size (Azure Site Recovery: 50 % of
    the disk's size).
    """
    crowded = _crowded(policy, queued, volumes)
    for disk in sorted(sizes):
        waiting, limit = queued.get(disk, 0), limit_of(sizes[disk], policy.backlog_percent)
        if waiting and waiting >= limit:
            return Room(
                f"{waiting >> 20} MiB of logs of disk {disk} wait for the store, which is "
                f"{policy.backlog_percent} % of its {sizes[disk] >> 20} MiB or more",
                crowded,
            )
    for disk in sorted(sizes):
        # As much again as must stay free: a log that begins must also find the room to end.
        if disk in volumes and volumes[disk].free < 2 * policy.reserve:
            return Room(
                f"{volumes[disk].free >> 20} MiB are left where logs of disk {disk} lie, and "
                f"{policy.reserve >> 20} MiB must stay free after the next one",
                crowded,
            )
    return Room("", crowded)


def _crowded(policy: Policy, queued: Mapping[str, int], volumes: Mapping[str, Volume]) -> tuple[str, ...]:
    """The disks on volumes that are short of the reserve and would not be without their logs."""
    by_volume: dict[Volume, list[str]] = {}
    for disk in sorted(volumes):
        if queued.get(disk):
            by_volume.setdefault(volumes[disk], []).append(disk)
    return tuple(
        disk
        for volume, disks in by_volume.items()
        if volume.free < policy.reserve <= volume.free + sum(queued[one] for one in disks)
        for disk in disks
    )
