"""The replica's log of records, read side: names, head, chain, opening (docs/protocol.md R1 to R6)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Final, NamedTuple

import msgspec
from ulid import ULID

from standby.errors import Damaged, InvalidRequest, Recoverable
from standby.objects.base import Conflict, ObjectMissing, ObjectStore, StoreRefused, Version
from standby.records import MachineDescription
from standby.replica import plan, suspicion
from standby.replica.cipher import Cipher
from standby.replica.documents import (
    KEPT,
    NO_PARENT,
    Head,
    Hold,
    LogReference,
    Record,
    authenticate,
    decode_head,
    decode_record,
    digest,
    encode,
)
from standby.replica.image import Image
from standby.replica.keys import GIVE, Key, KeyMissing, NotEncrypted
from standby.replica.log import LogReader
from standby.replica.suspicion import Change, Suspicion

PARALLEL_READS: Final = 16


class ChainBroken(Damaged):
    """The records do not follow one another: one is missing, replaced or from another replica."""


class ReplicaMissing(InvalidRequest):
    """The store has no replica of this name."""


class StoredRecord(NamedTuple):
    """A record and the digest that its successor must name."""

    record: Record
    digest: str


class Place:
    """Where one replica lies: a store and a name in it, and what opens it if it is encrypted."""

    def __init__(self, store: ObjectStore, name: str, key: Key | None = None) -> None:
        self.store = store
        self.name = name
        self.key = key

    @property
    def head(self) -> str:
        return f"{self.name}/replica.json"

    @property
    def points(self) -> str:
        return f"{self.name}/points/"

    def point(self, seq: int) -> str:
        return f"{self.points}{seq:020d}"

    def log(self, epoch: int, log_id: bytes) -> str:
        """A log's name below the replica."""
        return f"logs/{epoch:020d}/{ULID.from_bytes(log_id)}.hrl"

    def below(self, name: str) -> str:
        return f"{self.name}/{name}"

    def subject(self, name: str) -> str:
        """An object's name as an operator can find it."""
        return f"{self.store.url.rstrip('/')}/{name}"

    def decode_head(self, stored: bytes) -> Head:
        """R1. With a key the head is proved to be of somebody who has it. Raises Damaged, WrongKey, NotEncrypted."""
        head = decode_head(stored, self.subject(self.head))
        self.authenticate(head)
        return head

    def authenticate(self, head: Head) -> None:
        """Raises Damaged unless who wrote the head had the key; nothing is proved without a key."""
        if cipher := self.cipher(head):
            authenticate(head, cipher, self.subject(self.head))

    def cipher(self, head: Head) -> Cipher | None:
        """None if the replica is not encrypted, or no key was given. Raises WrongKey, NotEncrypted."""
        if self.key is None:
            return None
        if not head.encrypted:
            raise NotEncrypted(
                "the replica is not encrypted, and a key was given for it",
                subject=self.subject(self.name),
                hint="leave the key away if it never was encrypted; else somebody has replaced the replica",
            )
        return self.key.cipher(head.replica, head.wrapped, self.subject(self.head))

    def unlocked(self, head: Head) -> Cipher | None:
        """As `cipher`, for what cannot be done without a key. Raises KeyMissing."""
        if head.encrypted and self.key is None:
            raise KeyMissing(
                "the replica is encrypted",
                subject=self.subject(self.name),
                tried="what does not need the key",
                hint=GIVE,
            )
        return self.cipher(head)


def check_replica_name(name: str) -> None:
    """Raises InvalidRequest unless `name` can name a replica (format.md 1)."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or name.strip(".") == "":
        raise InvalidRequest(
            "a replica's name is 1 to 64 of letters, digits, dot, underscore and hyphen",
            subject=repr(name),
            hint="choose another replica name",
        )


def replica_names(store: ObjectStore) -> list[str]:
    """The replicas in a store, sorted."""
    names = {entry.name.split("/", 1)[0] for entry in store.list("") if entry.name.endswith("/replica.json")}
    return sorted(names)


def read_head(place: Place) -> tuple[Head, Version]:
    """R1. Raises ReplicaMissing."""
    try:
        stored = place.store.get(place.head)
    except ObjectMissing as error:
        raise ReplicaMissing(
            f"there is no replica named {place.name}",
            subject=place.store.url,
            hint=f"`standby replica list {place.store.url}` shows those that there are",
        ) from error
    return place.decode_head(stored.data), stored.version


def read_chain(place: Place, head: Head, *, upto: int | None = None) -> list[StoredRecord]:
    """R3: the records from the floor to `upto` (by default the tail) that were not merged away, checked.

    Raises ChainBroken, and ObjectMissing for a record that goes while it is read: see `read_settled`.
    """
    names = [
        name
        for name, seq in _numbered(place, head.floor)
        if not head.gone(seq) and (upto is None or seq <= upto)
    ]
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        stored = list(pool.map(lambda name: place.store.get(name).data, names))
    cipher = place.cipher(head)
    behind = {one.first: one.last for one in head.merged if one.first}
    pinned = {one.last: one.digest for one in head.merged}
    chain: list[StoredRecord] = []
    expected = head.floor
    for name, data in zip(names, stored, strict=True):
        subject = place.subject(name)
        if name != place.point(expected):
            last = f"up to {chain[-1].record.seq} " if chain else ""
            raise ChainBroken(
                f"the record before it, {place.point(expected)}, is missing",
                subject=subject,
                hint=f"points {last}can still be opened: name one with --point" if last else "",
            )
        chain.append(StoredRecord(decode_record(data, subject, cipher), digest(data)))
        _check_link(chain, pinned.get(expected), expected, head, subject)
        expected = behind.get(expected, expected + 1)
    if upto is None and any(one.last >= expected for one in head.merged):
        raise ChainBroken(
            "the head names this record and it is missing", subject=place.subject(place.point(expected))
        )
    return chain


def _numbered(place: Place, floor: int) -> Iterator[tuple[str, int]]:
    """The names of the stored records from the floor on, with their numbers."""
    for entry in place.store.list(place.points, after=place.point(floor - 1)):
        text = entry.name.removeprefix(place.points)
        if re.fullmatch(r"[0-9]{20}", text) and int(text) >= floor:
            yield entry.name, int(text)


def _check_link(
    chain: Sequence[StoredRecord], pinned: str | None, seq: int, head: Head, subject: str
) -> None:
    """Compare the chain's last record with the one before it or, where that was merged away, with the head."""
    record = chain[-1].record
    before = chain[-2] if len(chain) > 1 else None
    if pinned is not None:
        follows = chain[-1].digest == pinned
    elif before is not None:
        follows = record.parent == before.digest
    else:
        follows = record.parent == NO_PARENT or record.seq > 1
    if not follows:
        raise ChainBroken(
            "it does not follow the record before it: one of the two was changed", subject=subject
        )
    if (record.seq, record.replica) != (seq, head.replica):
        raise ChainBroken(f"it says it is record {record.seq} of {record.replica}", subject=subject)
    if before and record.epoch < before.record.epoch:
        raise ChainBroken(f"its epoch {record.epoch} is older than the one before it", subject=subject)


class ReplicaLog:
    """One reading of a replica: its head and its chain. Immutable; read again for news."""

    def __init__(self, place: Place, head: Head, chain: Sequence[StoredRecord]) -> None:
        self.place = place
        self.head = head
        self.chain = tuple(chain)
        self.records = tuple(stored.record for stored in chain)

    @classmethod
    def read(
        cls, store: ObjectStore, name: str, *, upto: int | None = None, key: Key | None = None
    ) -> ReplicaLog:
        """Raises InvalidRequest (no such replica), ChainBroken, Damaged, WrongKey. upto: ignore later records.

        Without its key an encrypted replica shows its points, but not its machine and no disk.
        """
        return read_settled(Place(store, name, key), upto=upto)[0]

    def again(self, *, upto: int | None = None) -> ReplicaLog:
        """Another reading of the same replica."""
        return read_settled(self.place, upto=upto)[0]

    @property
    def unproved(self) -> str:
        """What could not be proved of what was read, in a clause; "" with the key, or where there is none."""
        if self.head.encrypted and self.place.key is None:
            return "without the key, that only those who have it wrote the replica, and what it says"
        return ""

    def cipher(self) -> Cipher | None:
        """None if the replica is not encrypted. Raises KeyMissing."""
        return self.place.unlocked(self.head)

    @property
    def points(self) -> list[Record]:
        """The recovery points, oldest first."""
        return [record for record in self.records if record.is_point]

    def point(self, wanted: str = "newest") -> Record:
        """See plan.choose_point."""
        return plan.choose_point(self.records, wanted, self.place.name, self.flagged)

    def flagged(self) -> dict[int, Suspicion]:
        """Points that look as if somebody encrypted the disks (suspicion.py): by records, and the indexes of few."""
        return suspicion.judge([Change.of(point) for point in self.points], self._rewritten)

    def _rewritten(self, seq: int) -> float | None:
        """The share of the blocks touched by record `seq` that held something before; None without the key, or
        where an index is damaged: that is for others to tell."""
        if self.head.encrypted and self.place.key is None:
            return None
        index = next(at for at, record in enumerate(self.records) if record.seq == seq)
        earlier = self.records[:index]
        touched = held = 0
        try:
            for disk in self.records[index].disks:
                before = next((one for one in reversed(earlier) if one.kind != "fence"), None)
                known = before.disk(disk.id) if before else None
                for reference in disk.logs:
                    blocks = self.open_log(reference).all_rows()["block"]
                    touched += len(blocks)
                    if before and known:
                        held += self.image(before.seq, disk.id).held(blocks)
        except Damaged:
            return None
        return held / touched if touched else None

    def image(self, seq: int, disk_id: str) -> Image:
        """The disk as at record `seq`. Raises InvalidRequest if the machine had no such disk then."""
        record = next((r for r in self.records if r.seq == seq), None)
        state = record.disk(disk_id) if record else None
        if record is None or state is None:
            known = ", ".join(disk.id for disk in record.disks) if record else "no disk"
            raise InvalidRequest(
                f"point {seq} has no disk {disk_id}",
                subject=self.place.name,
                hint=f"it has {known}",
            )
        return Image(self.open_logs(plan.logs_of(self.head, self.records, seq, disk_id)), state.size)

    def open_logs(self, references: Sequence[LogReference]) -> list[LogReader]:
        with ThreadPoolExecutor(PARALLEL_READS) as pool:
            return list(pool.map(self.open_log, references))

    def open_log(self, reference: LogReference) -> LogReader:
        """Raises Damaged if the log is gone, shorter, or not the one that the record names; KeyMissing."""
        name = self.place.below(reference.name)
        subject = self.place.subject(name)
        store = self.place.store
        cipher = self.cipher()
        try:
            return LogReader(
                lambda offset, length: store.get_range(name, offset, length),
                subject,
                reference.size,
                reference.root,
                cipher,
            )
        except ObjectMissing as error:
            raise Damaged(
                "a record names this log and it is gone",
                subject=subject,
                hint="`standby replica verify` tells which points can still be opened",
            ) from error


def read_settled(place: Place, *, upto: int | None = None) -> tuple[ReplicaLog, Version]:
    """Head and chain that belong together, with the head's version. Raises as `ReplicaLog.read`.

    A merge between the two readings takes records away; then both are read again.
    """
    head, version = read_head(place)
    while True:
        try:
            return ReplicaLog(place, head, read_chain(place, head, upto=upto)), version
        except (ChainBroken, ObjectMissing):
            before = (head.floor, head.merged)
            head, version = read_head(place)
            if (head.floor, head.merged) == before:
                raise


def newest_machine(records: Sequence[Record]) -> MachineDescription | None:
    return next((record.machine for record in reversed(records) if record.machine), None)


@contextmanager
def hold(place: Place, seq: int, by: str) -> Iterator[bool]:
    """R2: keep what point `seq` needs from being merged away. Yields False without the right to write."""
    hold_id = str(ULID())
    held = add_hold(place, hold_id, seq, by)
    try:
        yield held
    finally:
        if held:
            drop_hold(place, hold_id)


def add_hold(place: Place, hold_id: str, seq: int, by: str, *, keep: bool = False) -> bool:
    """R2, for a reader that outlives this process: it notes `hold_id` durably before, and drops it in the end.

    Harmless to repeat. False without the right to write. keep: by nobody who reads, to keep the point until somebody
    releases it. Nothing is done for a point that is gone already: whoever keeps one looks at the head afterwards.
    """

    def added(head: Head) -> Head:
        if any(one.id == hold_id for one in head.holds) or (keep and head.gone(seq)):
            return head
        mine = Hold(id=hold_id, seq=seq, by=by, since_version=KEPT if keep else head.changes + 1)
        return msgspec.structs.replace(head, holds=(*head.holds, mine))

    try:
        _change_head(place, added)
    except StoreRefused:
        return False
    return True


def drop_hold(place: Place, hold_id: str) -> None:
    """End a hold; nothing happens if it is not there."""

    def dropped(head: Head) -> Head:
        return msgspec.structs.replace(head, holds=tuple(one for one in head.holds if one.id != hold_id))

    _change_head(place, dropped)


def _change_head(place: Place, change: Callable[[Head], Head]) -> None:
    for _ in range(100):
        head, version = read_head(place)
        changed = change(head)
        if changed == head:
            return
        changed = msgspec.structs.replace(changed, changes=head.changes + 1)
        if not isinstance(place.store.swap(place.head, encode(changed), version), Conflict):
            return
    raise Recoverable("the head changes too fast to add or drop a hold", subject=place.subject(place.head))
