"""The JSON documents of a replica: its head and its records (docs/format.md sections 4 and 5)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from datetime import datetime
from typing import Final, Literal, TypeVar
from uuid import UUID

import msgspec
from ulid import ULID

from standby.errors import Damaged, InvalidRequest
from standby.records import MachineDescription
from standby.replica.cipher import Cipher
from standby.replica.format import BLOCK_SHIFT, FORMAT, PAGE_SHIFT
from standby.replica.keys import WrappedKey

NO_PARENT: Final = "0" * 64
Kind = Literal["fence", "scan", "point", "seal"]

MERGED: Final = "merged"
"""Read feature of a replica that was merged: who does not know it would look for logs that are gone."""
ENCRYPTED: Final = "encrypted"
"""Read feature of a replica whose logs are encrypted and whose documents are authenticated."""
READ_FEATURES: Final = frozenset({MERGED, ENCRYPTED})


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
    """One entry of `points/` (format.md 4). `at` is RFC 3339 in UTC.

    group: of points of several machines at one instant, the same for all; absent for all others.
    sealed: in an encrypted replica note and machine, which are empty beside it until the key has opened it.
    """

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
    group: str | msgspec.UnsetType = msgspec.UNSET
    sealed: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def is_point(self) -> bool:
        """Whether this is a recovery point, which a person may open."""
        return self.kind in ("point", "seal")

    def disk(self, disk_id: str) -> DiskState | None:
        return next((disk for disk in self.disks if disk.id == disk_id), None)


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """What the records first+1 to `last` changed on a disk, in one merged log, or in several of which none
    has a block of another. first 0: nothing that is older counts, the layers are the disk's whole content.
    """

    disk: str
    first: int = 0
    last: int
    log: LogReference


class Merged(msgspec.Struct, frozen=True, kw_only=True):
    """Only the record `last` is left of first+1 to `last`; layers stand for the logs of all of them.

    first: a record that is still there, or 0 where `last` is the floor. digest: of record `last` as stored,
    which no record before it leads to any more. since: the head's `changes` from which on it is so.
    """

    first: int = 0
    last: int
    digest: str
    since: int

    def hides(self, seq: int) -> bool:
        """Whether record `seq` was merged away."""
        return self.first < seq < self.last


KEPT: Final = (1 << 53) - 1
"""A hold's `since_version` that is later than any: it keeps a point and reads nothing, so no sweep waits for it."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A reader at work: nothing that point `seq` needs may be deleted. since_version counts head swaps, or is KEPT."""

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
    """`replica.json` (format.md 5). `changes` counts its swaps, `sweeps` those of them that began a sweep.

    keys, mac: of an encrypted replica only.
    """

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
    merged: tuple[Merged, ...] = ()
    sweeps: int = 0
    keys: tuple[WrappedKey, ...] | msgspec.UnsetType = msgspec.UNSET
    mac: str | msgspec.UnsetType = msgspec.UNSET

    @property
    def encrypted(self) -> bool:
        return ENCRYPTED in self.read_features

    @property
    def wrapped(self) -> tuple[WrappedKey, ...]:
        """The keys that open the replica; none if it is not encrypted."""
        return self.keys if self.keys is not msgspec.UNSET else ()

    def gone(self, seq: int) -> bool:
        """Whether record `seq` lies below the floor or was merged away."""
        return seq < self.floor or any(one.hides(seq) for one in self.merged)


class _Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """What of a record an encrypted replica hides."""

    note: str
    machine: MachineDescription | None


def encode(document: Head | Record, cipher: Cipher | None = None) -> bytes:
    """As it is stored: JSON that ends with the SHA-256 of itself without that (format.md 4.1, 4.2).

    cipher: of an encrypted replica. None for a head of which only what no MAC covers was changed.
    """
    if cipher is not None:
        document = _signed(document, cipher) if isinstance(document, Head) else _hidden(document, cipher)
    body = msgspec.json.encode(document)
    if cipher is not None and isinstance(document, Record):
        body = body[:-1] + b',"mac":"' + cipher.mac(body).encode() + b'"}'
    return with_sum(body)


def with_sum(body: bytes) -> bytes:
    """A JSON object with its own SHA-256 as the last member (format.md 4.1)."""
    return body[:-1] + b',"sum":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'


def checked_sum(stored: bytes, subject: str) -> None:
    """Raises Damaged unless it ends with its sum, which only documents of the first standby lack."""
    if stored[-_SUM_LENGTH:-66] != b',"sum":"':
        raise Damaged("it does not end with its sum", subject=subject)
    _check_sum(stored, subject)


def _hidden(record: Record, cipher: Cipher) -> Record:
    if not record.note and record.machine is None:
        return record
    plain = msgspec.json.encode(_Sealed(note=record.note, machine=record.machine))
    sealed = base64.b64encode(cipher.seal(plain, "record")).decode()
    return msgspec.structs.replace(record, note="", machine=None, sealed=sealed)


def _signed(head: Head, cipher: Cipher) -> Head:
    return msgspec.structs.replace(head, mac=_head_mac(head, cipher))


def _head_mac(head: Head, cipher: Cipher) -> str:
    """Over all but what is changed without the key: by readers, and by sweeps."""
    covered = msgspec.structs.replace(head, changes=0, holds=(), sweeps=0, mac=msgspec.UNSET)
    return cipher.mac(msgspec.json.encode(covered))


def digest(stored: bytes) -> str:
    """What the next record's `parent` must say of this one."""
    return hashlib.sha256(stored).hexdigest()


def decode_head(stored: bytes, subject: str) -> Head:
    """Raises Damaged, or InvalidRequest for a replica that needs a newer standby. `authenticate` is the rest."""
    _refuse_newer(stored, subject)
    head = _decode(stored, Head, subject)
    unknown = set(head.read_features) - READ_FEATURES
    if unknown:
        raise InvalidRequest(
            f"the replica needs the features {', '.join(sorted(unknown))} to be read",
            subject=subject,
            hint="use a newer standby",
        )
    if (head.block_shift, head.page_shift) != (BLOCK_SHIFT, PAGE_SHIFT):
        raise InvalidRequest(
            f"the replica has blocks of 2^{head.block_shift} and pages of 2^{head.page_shift} bytes",
            subject=subject,
            hint="use a newer standby",
        )
    if head.encrypted != bool(head.wrapped):
        raise Damaged("it says that the replica is encrypted, and has no key", subject=subject)
    return head


def authenticate(head: Head, cipher: Cipher, subject: str) -> None:
    """Raises Damaged unless somebody who has the key wrote the head."""
    if head.mac != _head_mac(head, cipher):
        raise Damaged("it was changed by somebody who has no key", subject=subject)


def decode_record(stored: bytes, subject: str, cipher: Cipher | None = None) -> Record:
    """Raises Damaged, or InvalidRequest for a record that needs a newer standby.

    cipher: of an encrypted replica; without it the record is not authenticated, and says less.
    """
    _refuse_newer(stored, subject)
    record = _decode(stored, Record, subject)
    if cipher is None:
        return record
    _check_mac(stored, cipher, subject)
    if record.sealed is msgspec.UNSET:
        return record
    try:
        plain = cipher.unseal(base64.b64decode(record.sealed, validate=True), "record", subject)
        shown = msgspec.json.decode(plain, type=_Sealed)
    except (binascii.Error, msgspec.DecodeError) as error:
        raise Damaged(f"what is encrypted in it cannot be read: {error}", subject=subject) from error
    return msgspec.structs.replace(record, note=shown.note, machine=shown.machine, sealed=msgspec.UNSET)


def _check_mac(stored: bytes, cipher: Cipher, subject: str) -> None:
    """A record of an encrypted replica ends with its MAC and its sum (format.md 4.2)."""
    body, mac = stored[: -2 * _SUM_LENGTH + 1], stored[-2 * _SUM_LENGTH + 1 : -_SUM_LENGTH]
    if mac != b',"mac":"' + cipher.mac(body + b"}").encode() + b'"':
        raise Damaged("it was not written by somebody who has the key", subject=subject)


_T = TypeVar("_T")


class _Versioned(msgspec.Struct):
    format: int


_SUM_LENGTH: Final = len(',"sum":""}') + 64


def _check_sum(stored: bytes, subject: str) -> None:
    """Documents of the first standby end without a sum, and never with a string of its length."""
    tail = stored[-_SUM_LENGTH:]
    key, found = tail[2:5], tail[8:-2]
    if tail != b',"' + key + b'":"' + found + b'"}' or b'"' in found:
        return
    body = stored[:-_SUM_LENGTH] + b"}"
    if key != b"sum" or hashlib.sha256(body).hexdigest().encode() != found:
        raise Damaged("its bytes are not those that were written", subject=subject)


def _decode(stored: bytes, kind: type[_T], subject: str) -> _T:
    _check_sum(stored, subject)
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
