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
from standby.replica import plan
from standby.replica.documents import (
    NO_PARENT,
    Head,
    Hold,
    LogReference,
    Record,
    decode_head,
    decode_record,
    digest,
    encode,
)
from standby.replica.image import Image
from standby.replica.log import LogReader

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
    """Where one replica lies: a store and a name in it."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.store = store
        self.name = name

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
    return decode_head(stored.data, place.subject(place.head)), stored.version


def read_chain(place: Place, floor: int, *, upto: int | None = None) -> list[StoredRecord]:
    """R3: the records from the floor to `upto` (by default the tail), checked. Raises ChainBroken."""
    first = place.point(floor)
    names = [e.name for e in place.store.list(place.points, after=place.point(floor - 1)) if e.name >= first]
    if upto is not None:
        names = [name for name in names if name <= place.point(upto)]
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        stored = list(pool.map(lambda name: place.store.get(name).data, names))
    chain: list[StoredRecord] = []
    for number, (name, data) in enumerate(zip(names, stored, strict=True)):
        subject = place.subject(name)
        if name != place.point(floor + number):
            raise ChainBroken(
                f"the record before it, {place.point(floor + number)}, is missing",
                subject=subject,
                hint=f"points up to {floor + number - 1} can still be opened: name one with --point",
            )
        chain.append(StoredRecord(decode_record(data, subject), digest(data)))
        _check_link(chain, subject)
    return chain


def _check_link(chain: Sequence[StoredRecord], subject: str) -> None:
    record = chain[-1].record
    if len(chain) == 1:
        wanted_parent = NO_PARENT if record.seq == 1 else record.parent
        before = None
    else:
        wanted_parent, before = chain[-2].digest, chain[-2].record
    if record.parent != wanted_parent:
        raise ChainBroken(
            "it does not follow the record before it: one of the two was changed", subject=subject
        )
    if before and (record.seq, record.replica) != (before.seq + 1, before.replica):
        raise ChainBroken(f"it says it is record {record.seq} of {record.replica}", subject=subject)
    if before and record.epoch < before.epoch:
        raise ChainBroken(f"its epoch {record.epoch} is older than the one before it", subject=subject)


class ReplicaLog:
    """One reading of a replica: its head and its chain. Immutable; read again for news."""

    def __init__(self, place: Place, head: Head, chain: Sequence[StoredRecord]) -> None:
        self.place = place
        self.head = head
        self.chain = tuple(chain)
        self.records = tuple(stored.record for stored in chain)

    @classmethod
    def read(cls, store: ObjectStore, name: str, *, upto: int | None = None) -> ReplicaLog:
        """Raises InvalidRequest (no such replica), ChainBroken, Damaged. upto: ignore later records."""
        place = Place(store, name)
        head, _ = read_head(place)
        return cls(place, head, read_chain(place, head.floor, upto=upto))

    @property
    def points(self) -> list[Record]:
        """The recovery points, oldest first."""
        return [record for record in self.records if record.is_point]

    def point(self, wanted: str = "newest") -> Record:
        """See plan.choose_point."""
        return plan.choose_point(self.records, wanted, self.place.name)

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
        """Raises Damaged if the log is gone, shorter, or not the one that the record names."""
        name = self.place.below(reference.name)
        subject = self.place.subject(name)
        store = self.place.store
        try:
            return LogReader(
                lambda offset, length: store.get_range(name, offset, length),
                subject,
                reference.size,
                reference.root,
            )
        except ObjectMissing as error:
            raise Damaged(
                "a record names this log and it is gone",
                subject=subject,
                hint="`standby replica verify` tells which points can still be opened",
            ) from error


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


def add_hold(place: Place, hold_id: str, seq: int, by: str) -> bool:
    """R2, for a reader that outlives this process: it notes `hold_id` durably before, and drops it in the end.

    Harmless to repeat. False without the right to write.
    """

    def added(head: Head) -> Head:
        if any(one.id == hold_id for one in head.holds):
            return head
        mine = Hold(id=hold_id, seq=seq, by=by, since_version=head.changes + 1)
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
