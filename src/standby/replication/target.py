"""The store's half of a relationship: entries become records of the replica, in order (W1 to W5, C3, C5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from standby import failpoints
from standby.clock import Clock
from standby.errors import Damaged
from standby.objects.base import ObjectMissing, ObjectStore
from standby.replica.documents import Record
from standby.replica.format import block_count
from standby.replica.image import REGION_BLOCKS
from standby.replica.journal import ReplicaLog, read_head
from standby.replica.keys import Key
from standby.replica.log import LogDamaged
from standby.replica.plan import last_state
from standby.replica.writer import NewId, Writer, attach
from standby.replication.books import Books
from standby.replication.entries import Entry
from standby.replication.known import KnownBlocks
from standby.replication.relationship import UNKNOWN, DiskBook
from standby.replication.resync import Reason
from standby.replication.sending import send
from standby.replication.unlock import key_of

_NOTED: Final = failpoints.declare("ship.noted")
_DELETED: Final = failpoints.declare("ship.deleted")
_REFILLED: Final = failpoints.declare("target.refilled")


def learn_disk(log: ReplicaLog, newest: Record | None, disk_id: str, known: KnownBlocks, blocks: int) -> None:
    """Fill the hashes of a disk of so many blocks from what the replica holds as at `newest`; durably."""
    if newest and newest.disk(disk_id):
        image = log.image(newest.seq, disk_id)
        count = min(blocks, block_count(image.size))
        for first in range(0, count, REGION_BLOCKS):
            known.fill(first, image.hashes(first, min(REGION_BLOCKS, count - first)))
    known.sync()


class Target:
    """Used by one thread at a time. key: opens an encrypted replica; without it the key file of the books is read."""

    def __init__(
        self,
        books: Books,
        relationship: str,
        store: ObjectStore,
        owner: str,
        clock: Clock,
        new_id: NewId,
        key: Key | None = None,
    ) -> None:
        self._books = books
        self._id = relationship
        self._store = store
        self._owner = f"{owner}, {relationship}"
        self._clock = clock
        self._new_id = new_id
        self._key = key
        self._writer: Writer | None = None

    @property
    def attached(self) -> bool:
        return self._writer is not None

    @property
    def epoch(self) -> int:
        return self._writer.epoch if self._writer else 0

    @property
    def newest(self) -> Record | None:
        """The newest record that says what the replica holds, once attached."""
        return self._writer.newest if self._writer else None

    def attach(self, epoch: int | None = None) -> bool:
        """Own the replica under a new epoch and compare it with the books. Returns whether they agree.

        Where they do not, every disk is to be scanned and the queue is dropped: its logs build on
        something that the replica does not have.
        """
        relationship = self._books.get(self._id)
        writer = attach(
            self._store,
            relationship.replica,
            owner=self._owner,
            clock=self._clock,
            new_id=self._new_id,
            epoch=epoch,
            take_over=relationship.taking_over,
            key=key_of(relationship, self._key),
        )
        if writer.head.wrapped != relationship.wrapped:
            # Keys were changed since: the next start needs those that are left, also while the store is away.
            self._books.set_keys(self._id, writer.head.wrapped, relationship.key_file)
        if relationship.taking_over:
            self._books.set_taking_over(self._id, False)
        nonce = writer.newest.nonce if writer.newest else ""
        queue = self._books.queue(self._id)
        if queue and writer.newest and nonce == queue[0].nonce:
            # The commit of the head of the queue had won, and its answer was lost with the agent.
            self._forget(queue[0], writer.newest)
        elif nonce != relationship.committed:
            self._books.diverged(self._id, nonce, Reason.DIVERGED.value)
            self._writer = writer
            return False
        self._writer = writer
        return True

    def refill(self, known: Callable[[str], Path]) -> None:
        """C5: learn from the store what the replica has of the disks whose known hashes are unusable.

        known: a disk's file of hashes. Entries of the queue are learned again by the source.
        """
        relationship = self._books.get(self._id)
        unknown = [disk for disk in relationship.disks if disk.learned == UNKNOWN]
        while True:
            log = ReplicaLog.read(self._store, relationship.replica, key=key_of(relationship, self._key))
            try:
                self._learn(log, unknown, known)
            except (Damaged, ObjectMissing):
                # Without a hold, which a killed agent would leave behind: a merge may take logs away meanwhile.
                if read_head(log.place)[0].merged == log.head.merged:
                    raise
            else:
                break
        _REFILLED.reach()

    def _learn(self, log: ReplicaLog, unknown: Sequence[DiskBook], known: Callable[[str], Path]) -> None:
        newest = last_state(log.records)
        for disk in unknown:
            blocks = block_count(disk.size)
            table = KnownBlocks.empty(known(disk.id), blocks)
            try:
                learn_disk(log, newest, disk.id, table, blocks)
            finally:
                table.close()
            self._books.set_learned(self._id, [disk.id], 0)

    def ship(self, entry: Entry) -> Record:
        """Upload the entry's logs, commit its record, then forget it. Harmless to repeat.

        Raises LogDamaged, before anything is committed, if one is not what was sealed; it is removed.
        """
        if self._writer is None:
            raise AssertionError("attach() comes first")
        if (newest := self._writer.newest) and newest.nonce == entry.nonce:
            # It is committed, and the books could not be told.
            self._forget(entry, newest)
            return newest
        try:
            record = send(self._writer, entry, self._books.get(self._id).policy.upload_threads)
        except LogDamaged as error:
            # Gone, it is found to be lost when the queue is looked through (source.py).
            error.path.unlink(missing_ok=True)
            raise
        self._forget(entry, record)
        return record

    def move(self, store: ObjectStore) -> None:
        """Another target comes first from here on. While nothing is under way with the store."""
        self.let_go()
        self._store = store

    def let_go(self) -> None:
        """Forget the attachment: the next one takes a new epoch."""
        self._writer = None

    def _forget(self, entry: Entry, record: Record) -> None:
        """W4."""
        with self._books.learning:
            freed = self._books.shipped(self._id, entry, self._clock.now().isoformat(), record.seq)
        _NOTED.reach()
        for path in freed:
            path.unlink(missing_ok=True)
        _DELETED.reach()
