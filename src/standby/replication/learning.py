"""The known hashes of a relationship's disks, kept in step with what its books queue (C5)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from standby.replica.format import block_count
from standby.replica.keys import Key
from standby.replica.log import open_local
from standby.replication.books import Books
from standby.replication.entries import Entry
from standby.replication.known import KnownBlocks, KnownLost
from standby.replication.relationship import UNKNOWN, DiskBook, Relationship
from standby.replication.unlock import cipher_of


class Learning:
    """Used by one thread at a time."""

    def __init__(self, books: Books, relationship: str, key: Key | None = None) -> None:
        """key: see Source."""
        self._books = books
        self._id = relationship
        self._key = key
        self._known: dict[str, KnownBlocks] = {}

    def path(self, disk_id: str) -> Path:
        return self._books.folder / "known" / self._id / f"{disk_id}.hashes"

    def known(self, disk: DiskBook) -> KnownBlocks:
        """What the replica has of the disk. Raises KnownLost until that is learned from the store."""
        if disk.id not in self._known:
            try:
                self._known[disk.id] = KnownBlocks(self.path(disk.id), block_count(disk.size))
            except KnownLost:
                self._books.set_learned(self._id, [disk.id], UNKNOWN)
                raise
        return self._known[disk.id]

    def learn(self, entry: Entry, behind: Collection[str] | None = None) -> None:
        """C5: only now may the known hashes include what the entry's logs hold.

        behind: the disks that have not learned it yet (all whose hashes are known). A disk that has learned
        newer entries must not learn an older one again: its hashes would go back to it.
        """
        relationship = self._books.get(self._id)
        if behind is None:
            behind = [disk.id for disk in relationship.disks if disk.learned != UNKNOWN]
        touched = [disk for disk in entry.disks if disk.logs and disk.id in behind]
        cipher = cipher_of(relationship, self._key) if touched else None
        for disk in touched:
            known = self.known(relationship.disk(disk.id))
            known.set_mark(entry.ordinal)
            for log in disk.logs:
                known.learn_log(open_local(Path(log.path), cipher))
            known.sync()
        if touched:
            self._books.set_learned(self._id, [disk.id for disk in touched], entry.ordinal)

    def catch_up(self, relationship: Relationship) -> None:
        """After a kill between entering an entry and learning it: learn it now. Repeating is harmless.

        A disk whose known hashes are not of the books' time is left UNKNOWN.
        """
        with self._books.learning:
            queue = self._books.queue(self._id)
            ordinals = {entry.ordinal for entry in queue}
            learned = {disk.id: disk.learned for disk in relationship.disks if disk.learned != UNKNOWN}
            for disk in relationship.disks:
                if disk.learned != UNKNOWN and not self._of_this_time(disk, ordinals):
                    self._books.set_learned(self._id, [disk.id], UNKNOWN)
                    del learned[disk.id]
            for entry in queue:
                behind = {disk for disk, newest in learned.items() if newest < entry.ordinal}
                for gone in behind.difference(disk.id for disk in entry.disks):
                    self._begin_anew(relationship.disk(gone), entry)
                self.learn(entry, behind)

    def close(self, disk: str | None = None) -> None:
        """Let the files go: of one disk, or all."""
        for one in [disk] if disk else list(self._known):
            if known := self._known.pop(one, None):
                known.close()

    def _begin_anew(self, disk: DiskBook, entry: Entry) -> None:
        """The disk was away in this entry: what it had before is no base for what comes (format.md 6)."""
        self.close(disk.id)
        known = KnownBlocks.empty(self.path(disk.id), block_count(disk.size))
        try:
            known.set_mark(entry.ordinal)
            known.sync()
        finally:
            known.close()
        self._books.set_learned(self._id, [disk.id], entry.ordinal)

    def _of_this_time(self, disk: DiskBook, queued: Collection[int]) -> bool:
        """Whether the known hashes include what the books say: no less, and no more than what is queued."""
        try:
            mark = self.known(disk).mark
        except KnownLost:
            return False
        return mark == disk.learned or (mark > disk.learned and mark in queued)
