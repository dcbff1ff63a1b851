"""The JSON documents of a replica: its head and its records (docs/format.md sections 4 and 5)."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final, Literal, TypeVar
from uuid import UUID

import msgspec
from ulid import ULID

from standby.errors import Damaged, InvalidRequest
from standby.records import MachineDescription
from standby.replica.format import BLOCK_SHIFT, FORMAT, PAGE_SHIFT

NO_PARENT: Final = "0" * 64
Kind = Literal["fence", "scan", "point", "seal"]


class LogReference(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed log as a record names it.

    name: below the replica. size: bytes as stored. sha256 and root: hex. rows: touched blocks.
    data: raw bytes of the pages it stores, before compression.
    """

    name: str
    size: int
    sha256: str
    root: str
    rows: int
    data: int


class DiskState(msgspec.Struct, frozen=True, kw_only=True):
    """One disk in a record: its size in bytes and the logs that this record adds."""

    id: str
    size: int
    logs: tuple[LogReference, ...] = ()


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of `points/` (format.md 4). `at` is RFC 3339 in UTC."""

    format: int = FORMAT
    replica: UUID
    seq: int
    epoch: int
    kind: Kind
    nonce: str
    parent: str
    at: str
    writer: str
    consistency: str = ""
    note: str = ""
    disks: tuple[DiskState, ...] = ()
    machine: MachineDescription | None = None

    @property
    def is_point(self) -> bool:
        """Whether this is a recovery point, which a person may open."""
        return self.kind in ("point", "seal")

    def disk(self, disk_id: str) -> DiskState | None:
        return next((disk for disk in self.disks if disk.id == disk_id), None)


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A disk's whole content as at record `last`, in one merged log."""

    disk: str
    last: int
    log: LogReference


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A reader at work: nothing that point `seq` needs may be deleted. since_version counts head swaps."""

    id: str
    seq: int
    by: str
    since_version: int

    @property
    def since(self) -> datetime | None:
        """When the reader began, by its clock; None where the id is none of ours."""
        try:
            return ULID.from_str(self.id).datetime
        except ValueError:
            return None


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """`replica.json` (format.md 5). `changes` counts its swaps."""

    format: int = FORMAT
    replica: UUID
    name: str
    created: str
    origin: str = ""
    block_shift: int = BLOCK_SHIFT
    page_shift: int = PAGE_SHIFT
    read_features: tuple[str, ...] = ()
    write_features: tuple[str, ...] = ()
    epoch: int = 0
    owner: str = ""
    floor: int = 1
    changes: int = 0
    layers: tuple[Layer, ...] = ()
    holds: tuple[Hold, ...] = ()


def encode(document: Head | Record) -> bytes:
    return msgspec.json.encode(document)


def digest(stored: bytes) -> str:
    """What the next record's `parent` must say of this one."""
    return hashlib.sha256(stored).hexdigest()


def decode_head(stored: bytes, subject: str) -> Head:
    """Raises Damaged, or InvalidRequest for a replica that needs a newer standby."""
    _refuse_newer(stored, subject)
    head = _decode(stored, Head, subject)
    if head.read_features:
        raise InvalidRequest(
            f"the replica needs the features {', '.join(head.read_features)} to be read",
            subject=subject,
            hint="use a newer standby",
        )
    if (head.block_shift, head.page_shift) != (BLOCK_SHIFT, PAGE_SHIFT):
        raise InvalidRequest(
            f"the replica has blocks of 2^{head.block_shift} and pages of 2^{head.page_shift} bytes",
            subject=subject,
            hint="use a newer standby",
        )
    return head


def decode_record(stored: bytes, subject: str) -> Record:
    """Raises Damaged, or InvalidRequest for a record that needs a newer standby."""
    _refuse_newer(stored, subject)
    return _decode(stored, Record, subject)


_T = TypeVar("_T")


class _Versioned(msgspec.Struct):
    format: int


def _decode(stored: bytes, kind: type[_T], subject: str) -> _T:
    try:
        return msgspec.json.decode(stored, type=kind)
    except msgspec.DecodeError as error:
        raise Damaged(f"it cannot be read: {error}", subject=subject) from error


def _refuse_newer(stored: bytes, subject: str) -> None:
    version = _decode(stored, _Versioned, subject).format
    if version > FORMAT:
        raise InvalidRequest(
            f"it has format {version}, this standby reads up to {FORMAT}",
            subject=subject,
            hint="use a newer standby",
        )
