"""What waits to become a record of the replica: entries of the agent's books, and the logs they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from standby.records import MachineDescription
from standby.replica.documents import Kind
from standby.replica.log import SealedLog


class LocalLog(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed log that waits to be uploaded: SealedLog in terms that JSON has."""

    path: str
    log_id: str
    size: int
    sha256: str
    root: str
    rows: int
    data: int

    @classmethod
    def of(cls, log: SealedLog) -> LocalLog:
        return cls(
            path=str(log.path),
            log_id=log.log_id.hex(),
            size=log.size,
            sha256=log.sha256,
            root=log.root,
            rows=log.rows,
            data=log.data,
        )

    def sealed(self, disk_id: str) -> SealedLog:
        log_id = bytes.fromhex(self.log_id)
        return SealedLog(
            Path(self.path), log_id, disk_id, self.size, self.sha256, self.root, self.rows, self.data
        )


class EntryDisk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    size: int
    logs: tuple[LocalLog, ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What will become one record of the replica. changed: bytes that the guest wrote, in whole pages. group: of
    the instant that it has in common with other machines."""

    kind: Kind
    nonce: str
    at: str
    disks: tuple[EntryDisk, ...]
    consistency: str = ""
    note: str = ""
    machine: MachineDescription | None = None
    changed: int = 0
    ordinal: int = 0
    group: str = ""

    @property
    def stored(self) -> int:
        """Bytes that its logs take."""
        return sum(log.size for disk in self.disks for log in disk.logs)

    @property
    def logs(self) -> list[LocalLog]:
        return [log for disk in self.disks for log in disk.logs]

    def without_logs_of(self, dropped: frozenset[str]) -> Entry | None:
        """What is left of it when logs of these disks are dropped, its own or of entries before it; None if
        that is nothing.

        It can no longer be a point, as it is not all disks at one instant; but what it says of the others
        stays true, and is kept as of a scan (C4).
        """
        disks = tuple(
            EntryDisk(id=disk.id, size=disk.size) if disk.id in dropped else disk for disk in self.disks
        )
        if not any(disk.logs for disk in disks):
            return None
        return msgspec.structs.replace(
            self, kind="scan", disks=disks, consistency="", note="", machine=None, changed=0
        )


class Queue(msgspec.Struct, frozen=True, kw_only=True):
    """The entries that wait for the first target, in short. bytes: of all logs that wait, for whichever target, by
    disk, each counted once; first_bytes: of those that wait for the first. oldest: the next to be committed."""

    points: int
    scans: int
    bytes: Mapping[str, int]
    first_bytes: int
    oldest: Entry | None

    @property
    def length(self) -> int:
        return self.points + self.scans
