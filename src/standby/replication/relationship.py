"""A machine and its replica, as its agent keeps them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from standby.replica.keys import WrappedKey
from standby.replication.policy import Policy
from standby.replication.states import Status

UNKNOWN: Final = -1
"""`learned` of a disk whose known hashes must be filled from the store."""


class Side(StrEnum):
    CAPTURE = "capture"
    SEND = "send"


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """An error that stands. Times are seconds since 1970.

    error: its text. kind: its class. failures: in a row since `first`. retry_at: None where nothing is
    tried until somebody asks (Azure Site Recovery: unrecoverable errors).
    """

    error: str
    kind: str
    failures: int
    first: float
    retry_at: float | None


class Connection(msgspec.Struct, frozen=True, kw_only=True):
    """How a machine is reached: by sockets of its QEMU (control, guest agent, NBD server of its own), or by the
    address of the libvirt that runs it, where the machine's name is its domain's."""

    qmp: str = ""
    agent: str = ""
    nbd: str = ""
    libvirt: str = ""


class DiskBook(msgspec.Struct, frozen=True, kw_only=True):
    """One protected disk.

    scan: why all of it must be compared with the replica, or "". scanned: bytes that this scan has done.
    learned: the newest entry whose logs the known hashes include, or UNKNOWN.
    round: the round of change tracking that holds all changes which are in no log yet; 0 if that is not known.
    """

    id: str
    size: int
    scan: str
    scanned: int
    learned: int
    round: int = 0

    @property
    def scanning(self) -> bool:
        return self.scan != "" and self.scanned < self.size


class Relationship(msgspec.Struct, frozen=True, kw_only=True):
    """active: the round of change tracking since which nothing is in a log yet. committed: nonce of the
    newest record that is known to be committed. excluded: disks that are left out.
    newest: the instant of the newest committed point. synced: when a record was last committed ("" for never).
    closing: ordinal of the entry that closes the scan which ran last, 0 if it is not made or is committed.
    taking_over: an operator let this agent have a replica that another one owns.
    resync: what an operator last said of a resynchronization that waits ("" nothing, "now", "cancelled").
    wrapped: the keys that open the replica, as its head had them, so that captures need no store; none if it is not
    encrypted. key_file: where the agent finds its key, "" if it is told at each start.
    """

    id: str
    machine: str
    connection: Connection | None
    store: str
    replica: str
    replica_id: UUID
    policy: Policy
    spool: str
    status: Status
    active: int
    committed: str
    excluded: tuple[str, ...]
    newest: str
    synced: str
    closing: int
    taking_over: bool
    resync: str
    capture: Trouble | None
    send: Trouble | None
    disks: tuple[DiskBook, ...]
    wrapped: tuple[WrappedKey, ...] = ()
    key_file: str = ""

    def disk(self, disk_id: str) -> DiskBook:
        return next(disk for disk in self.disks if disk.id == disk_id)

    def trouble(self, side: Side) -> Trouble | None:
        return self.capture if side is Side.CAPTURE else self.send

    @property
    def error(self) -> str:
        """The error that stands, the store's before the machine's; "" if none."""
        trouble = self.send or self.capture
        return trouble.error if trouble else ""

    @property
    def scanning(self) -> bool:
        return any(disk.scanning for disk in self.disks)

    @property
    def unknown(self) -> bool:
        """Whether the known hashes of a disk are unusable."""
        return any(disk.learned == UNKNOWN for disk in self.disks)
