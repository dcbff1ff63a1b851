"""Taking a replica over and committing to it (docs/protocol.md T1 to T5, W1 to W5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple
from uuid import UUID

import msgspec

from standby import failpoints
from standby.clock import Clock
from standby.errors import Bug, Fenced, InvalidRequest, Recoverable
from standby.objects.base import Conflict, ObjectMissing, ObjectStore, StoreUnreachable, Version
from standby.records import MachineDescription
from standby.replica.cipher import Cipher
from standby.replica.documents import (
    ENCRYPTED,
    NO_PARENT,
    DiskState,
    Head,
    Kind,
    LogReference,
    Record,
    decode_record,
    digest,
    encode,
)
from standby.replica.journal import Place, StoredRecord, check_replica_name, read_head, read_settled
from standby.replica.keys import Key, new_data_key
from standby.replica.log import LogDamaged, SealedLog
from standby.replica.plan import last_state

_HEAD_READ = failpoints.declare("attach.head_read")
_HEAD_SWAPPED = failpoints.declare("attach.head_swapped")
_LISTED = failpoints.declare("attach.listed")
_FENCE_PUT = failpoints.declare("attach.fence_put")
_ATTACHED = failpoints.declare("attach.done")
_LOG_PUT = failpoints.declare("upload.log_put")
_RECORD_PUT = failpoints.declare("commit.record_put")
_HEAD_CHECKED = failpoints.declare("commit.head_checked")

NewId = Callable[[], str]
"""Makes a nonce (a ULID as text)."""


class Draft(NamedTuple):
    """What a record will say, before it has a place in the chain. nonce: once per thing to say."""

    kind: Kind
    nonce: str
    at: str
    disks: tuple[DiskState, ...]
    consistency: str = ""
    note: str = ""
    machine: MachineDescription | None = None
    group: str | msgspec.UnsetType = msgspec.UNSET


def create(
    store: ObjectStore, name: str, *, replica: UUID, origin: str, clock: Clock, key: Key | None = None
) -> Head:
    """A new, empty replica, encrypted if there is a key. Raises InvalidRequest if the name is taken by another.

    Creating the same replica again (same id) finds what is there, so an interrupted creation goes on. Raises
    KeyMissing, WrongKey, NotEncrypted if what is there is not opened by the key.
    """
    check_replica_name(name)
    place = Place(store, name, key)
    now = clock.now().isoformat()
    head = Head(replica=replica, name=name, created=now, origin=origin)
    cipher = None
    if key is not None:
        cipher = Cipher(new_data_key(), replica)
        wrapped = key.wrap(cipher.data_key, replica, now)
        head = msgspec.structs.replace(head, read_features=(ENCRYPTED,), keys=(wrapped,))
    if isinstance(store.put_if_absent(place.head, encode(head, cipher)), Conflict):
        found, _ = read_head(Place(store, name))
        if found.replica != replica:
            raise InvalidRequest(
                f"the name {name} is taken by replica {found.replica} from {found.origin or 'unknown'}",
                subject=store.url,
                hint="choose another replica name; or, if it is of this machine and no other host replicates into it, "
                "`standby vm protect` with --take-over continues it: what differs is found by hashes",
            )
        place.unlocked(found)
        return read_head(place)[0]
    return head


def attach(
    store: ObjectStore,
    name: str,
    *,
    owner: str,
    clock: Clock,
    new_id: NewId,
    epoch: int | None = None,
    take_over: bool = True,
    key: Key | None = None,
) -> Writer:
    """Take the replica over under a new epoch; from the return on no older writer can commit.

    epoch: what the vault issued; None without a vault (then stored + 1). owner: the writer; the same again only
    for who goes on from the same books. take_over: also from another owner (T2).
    key: opens an encrypted replica.
    Raises Fenced if a newer epoch owns the replica or takes it meanwhile, ChainBroken, Damaged; KeyMissing,
    WrongKey, NotEncrypted.
    """
    place = Place(store, name, key)
    head, version, mine = _claim(place, owner, epoch, take_over)
    chain = list(read_settled(place)[0].chain)
    _LISTED.reach()
    if chain and chain[-1].record.epoch > mine:
        raise _fenced(place, chain[-1].record.epoch, mine, f"record {chain[-1].record.seq}")
    nonce = new_id()
    while True:
        fence = Record(
            replica=head.replica,
            seq=chain[-1].record.seq + 1 if chain else head.floor,
            epoch=mine,
            kind="fence",
            nonce=nonce,
            parent=chain[-1].digest if chain else NO_PARENT,
            at=clock.now().isoformat(),
            writer=owner,
        )
        stored = encode(fence, place.cipher(head))
        answer = store.put_if_absent(place.point(fence.seq), stored)
        if not isinstance(answer, Conflict):
            chain.append(StoredRecord(fence, digest(stored)))
            break
        adopted = _stored_record(place, head, fence.seq)
        chain.append(adopted)
        if adopted.record.epoch > mine:
            raise _fenced(place, adopted.record.epoch, mine, f"record {fence.seq}")
        if adopted.record.epoch == mine and adopted.record.nonce == nonce:
            break
    _FENCE_PUT.reach()
    head, version = read_head(place)
    if head.epoch != mine:
        raise _fenced(place, head.epoch, mine, "the head")
    _ATTACHED.reach()
    newest = last_state([stored.record for stored in chain])
    return Writer(place, owner, head, version, chain[-1], newest)


def _claim(place: Place, owner: str, epoch: int | None, take_over: bool) -> tuple[Head, Version, int]:
    """T1 and T2. A conflict is somebody else's swap (a hold, a merge, a writer): look again."""
    while True:
        head, version = read_head(place)
        if head.write_features:
            raise InvalidRequest(
                f"the replica needs the features {', '.join(head.write_features)} to be written",
                subject=place.subject(place.head),
                hint="use a newer standby",
            )
        cipher = place.unlocked(head)
        _HEAD_READ.reach()
        mine = head.epoch + 1 if epoch is None else epoch
        if head.epoch >= mine:
            raise _fenced(place, head.epoch, mine, "the head")
        if head.owner not in ("", owner) and not take_over:
            # A recovered machine may have gone on from here while this agent was away.
            raise Fenced(
                f"{head.owner} owns the replica (epoch {head.epoch}), not {owner}",
                subject=place.subject(place.name),
                tried="nothing was written",
                hint="see where the machine runs; if here and nowhere else, `standby vm protect` with --take-over",
            )
        claimed = msgspec.structs.replace(head, epoch=mine, owner=owner, changes=head.changes + 1)
        answer = place.store.swap(place.head, encode(claimed, cipher), version)
        if not isinstance(answer, Conflict):
            _HEAD_SWAPPED.reach()
            return claimed, answer, mine
        if epoch is None:
            epoch = mine


def _fenced(place: Place, theirs: int, mine: int, where: str) -> Fenced:
    return Fenced(
        f"another writer owns the replica: {where} has epoch {theirs}, this writer has {mine}",
        subject=place.subject(place.name),
        hint="if the machine runs here and nowhere else, `standby vm protect` with --take-over takes a newer epoch",
    )


def _stored_record(place: Place, head: Head, seq: int) -> StoredRecord:
    name = place.point(seq)
    try:
        data = place.store.get(name).data
    except ObjectMissing as error:
        raise StoreUnreachable(
            "a merge took the record away while it was read: this writer has stood still for long",
            subject=place.subject(name),
        ) from error
    return StoredRecord(decode_record(data, place.subject(name), place.cipher(head)), digest(data))


class Writer:
    """The owner of a replica under one epoch. Used by one thread at a time.

    epoch: this writer's, for ever. head: as last read. newest: the newest record that says what the replica holds
    (no fence), if there is one. Of the chain only its end is kept: it grows for ever, and there is one writer a
    machine.
    """

    def __init__(
        self,
        place: Place,
        owner: str,
        head: Head,
        version: Version,
        tail: StoredRecord,
        newest: Record | None,
    ) -> None:
        self.place = place
        self.owner = owner
        self.epoch = head.epoch
        self.head = head
        self.newest = newest
        self._tail = tail
        self._version = version
        self._pending: tuple[str, bytes] | None = None

    @property
    def tail(self) -> Record:
        return self._tail.record

    def upload(self, log: SealedLog) -> LogReference:
        """W1: put a sealed log under this epoch. Harmless to repeat. Raises LogDamaged."""
        name = self.place.log(self.epoch, log.log_id)
        log.check()
        try:
            self.place.store.put_file(self.place.below(name), log.path)
        except (InvalidRequest, Recoverable) as error:
            if log.path.exists():
                raise
            raise LogDamaged(log, "was taken away while it was sent") from error
        _LOG_PUT.reach()
        return LogReference(
            name=name, size=log.size, sha256=log.sha256, root=log.root, rows=log.rows, data=log.data
        )

    def commit(self, draft: Draft) -> Record:
        """W2 and W3: make the record the new tail. On a return it is committed for good.

        After StoreUnreachable it may or may not be in the store: call again with the same draft, and only
        with that one. Raises Fenced, and Bug if the chain holds something that this epoch never wrote.
        """
        if self._pending and self._pending[0] != draft.nonce:
            raise Bug(
                f"{draft.nonce} is offered while {self._pending[0]} is undecided", subject=self.place.name
            )
        seq = self.tail.seq + 1
        if self._pending is None:
            record = Record(
                replica=self.head.replica,
                seq=seq,
                epoch=self.epoch,
                parent=self._tail.digest,
                writer=self.owner,
                **draft._asdict(),
            )
            self._pending = (draft.nonce, encode(record, self.place.cipher(self.head)))
        stored = self._pending[1]
        if isinstance(self.place.store.put_if_absent(self.place.point(seq), stored), Conflict):
            self._judge(_stored_record(self.place, self.head, seq).record, draft.nonce)
        _RECORD_PUT.reach()
        self._still_mine(seq)
        _HEAD_CHECKED.reach()
        subject = self.place.subject(self.place.point(seq))
        record = decode_record(stored, subject, self.place.cipher(self.head))
        self._tail, self.newest = StoredRecord(record, digest(stored)), record
        self._pending = None
        return record

    def _judge(self, found: Record, nonce: str) -> None:
        if found.nonce == nonce and found.epoch == self.epoch:
            return
        if found.epoch > self.epoch:
            raise _fenced(self.place, found.epoch, self.epoch, f"record {found.seq}")
        raise Bug(
            f"record {found.seq} was written under epoch {found.epoch} by {found.writer}, which this writer "
            f"(epoch {self.epoch}) never did: two writers share an epoch, or the store lost a fence",
            subject=self.place.subject(self.place.point(found.seq)),
            hint="stop all agents of this machine and run `standby replica verify`",
        )

    def _still_mine(self, seq: int) -> None:
        changed = self.place.store.get_if_changed(self.place.head, self._version)
        if changed:
            self.head = self.place.decode_head(changed.data)
            self._version = changed.version
        if self.head.epoch != self.epoch:
            raise _fenced(self.place, self.head.epoch, self.epoch, "the head")
        if self.head.gone(seq):
            raise Bug(f"record {seq} was merged away before it was confirmed", subject=self.place.name)
