"""One further target of a machine: it is made level with the first one, and then gets what the first one gets.

Nothing of this asks the machine: what a follower lacks is compared by hashes and fetched from the first target's
replica, and what is captured from then on is delivered from the agent's own logs, each target at its own pace.
All replicas of a machine have the same id and, encrypted, the same data key, so they take the same logs; a
follower's records have the nonces of the first target's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import numpy as np
from ulid import ULID

from standby import failpoints
from standby.block.extent import Extent, pieces
from standby.clock import Clock
from standby.errors import Damaged, Fenced, InvalidRequest, NeedsPerson, Recoverable, StandbyError
from standby.objects.base import ObjectMissing, ObjectStore
from standby.replica.documents import DiskState, LogReference, Record
from standby.replica.format import ALL_PAGES, LogHeader, block_count
from standby.replica.image import REGION_BLOCKS
from standby.replica.journal import ReplicaLog
from standby.replica.keys import Key
from standby.replica.log import LogDamaged
from standby.replica.plan import last_state
from standby.replica.twin import copy_boot_files
from standby.replica.writer import Draft, NewId, Writer, attach
from standby.replication.books import Books
from standby.replication.dirty import DirtyBlocks
from standby.replication.engine import of_host
from standby.replication.extract import Extractor, hash_of
from standby.replication.followers import Follower, Followers, Stage
from standby.replication.known import KnownBlocks
from standby.replication.relationship import Relationship, Trouble
from standby.replication.retry import wait_seconds
from standby.replication.sending import send
from standby.replication.source import SCAN_LOG
from standby.replication.spool import DiskLog
from standby.replication.states import State
from standby.replication.target import learn_disk
from standby.replication.unlock import key_of

_COPIED: Final = failpoints.declare("follow.copied")
_JOINED: Final = failpoints.declare("follow.joined")
_BASED: Final = failpoints.declare("follow.based")
_SENT: Final = failpoints.declare("follow.sent")

QUICK: Final = 60.0
"""Seconds: a copy that took longer is followed by another, before anything is kept for the follower."""

_RESTING: Final = (State.NEW, State.PAUSED, State.FENCED)

Opened = Callable[[str], ObjectStore]
"""The store of an address, within this machine's bandwidth."""


class Following:
    """Used by one thread at a time. fenced: told when another writer took the follower's replica."""

    def __init__(
        self,
        books: Books,
        relationship: str,
        follower: int,
        stores: Opened,
        owner: str,
        clock: Clock,
        new_id: NewId,
        fenced: Callable[[], None],
        key: Key | None = None,
    ) -> None:
        self._books = books
        self._followers = Followers(books)
        self._relationship = relationship
        self._id = follower
        self._stores = stores
        self._owner = f"{owner}, {relationship}"
        self._clock = clock
        self._new_id = new_id
        self._fenced = fenced
        self._key = key
        self._writer: Writer | None = None
        self._at = ("", False)

    def step(self) -> bool:
        """Do what is next; whether anything was. Raises Bug."""
        relationship = self._books.get(self._relationship)
        follower = self._followers.get(self._relationship, self._id)
        if follower is None or not self._due(relationship, follower):
            return False
        at = (follower.store, follower.stage is Stage.LEVEL)
        if self._at not in (at, (follower.store, False)):
            # It has changed places with the first target, or fallen behind: what is undecided is so no longer.
            self._writer = None
        self._at = at
        try:
            done = self._next(relationship, follower)
        except LogDamaged as error:
            error.path.unlink(missing_ok=True)
            self._behind("a log that waited for it was lost or damaged")
            return True
        except Fenced as error:
            self._writer = None
            now = self._followers.get(self._relationship, self._id)
            if now and now.store == follower.store:
                self._note(follower, error, fenced=True)
                self._fenced()
            return True
        except (Recoverable, NeedsPerson, InvalidRequest) as error:
            self._note(follower, error)
            return True
        except (OSError, MemoryError) as error:
            self._note(follower, of_host(error, relationship.machine))
            return True
        if done and follower.trouble:
            self._followers.set_trouble(self._id, None)
        return done

    def _due(self, relationship: Relationship, follower: Follower) -> bool:
        if relationship.status.state in _RESTING or follower.stage is Stage.FENCED:
            return False
        trouble = follower.trouble
        if trouble is None:
            return True
        return trouble.retry_at is not None and self._clock.now().timestamp() >= trouble.retry_at

    def _next(self, relationship: Relationship, follower: Follower) -> bool:
        if self._writer is None:
            self._attach(relationship, follower)
            return True
        if follower.stage is Stage.LEVEL:
            return self._deliver(relationship, follower, self._writer)
        return self._approach(relationship, follower, self._writer)

    def _attach(self, relationship: Relationship, follower: Follower) -> None:
        """Own the replica, and see whether it is what the books say."""
        self._writer = writer = attach(
            self._stores(follower.store),
            follower.replica,
            owner=self._owner,
            clock=self._clock,
            new_id=self._new_id,
            take_over=follower.taking_over,
            key=key_of(relationship, self._key),
        )
        if follower.taking_over:
            self._followers.set_taken_over(self._id)
        nonce = writer.newest.nonce if writer.newest else ""
        if follower.stage is not Stage.LEVEL or nonce == follower.committed:
            return
        entry = self._followers.next_delivery(self._id)
        if entry and nonce == entry.nonce:
            # It was committed, and the answer was lost with the agent.
            self._forget(follower, entry.nonce)
        else:
            self._behind("its replica was not what was left there")

    def _deliver(self, relationship: Relationship, follower: Follower, writer: Writer) -> bool:
        entry = self._followers.next_delivery(self._id)
        if entry is None:
            return False
        if not (writer.newest and writer.newest.nonce == entry.nonce):
            send(writer, entry, relationship.policy.upload_threads)
            _SENT.reach()
        self._forget(follower, entry.nonce)
        return True

    def _forget(self, follower: Follower, nonce: str) -> None:
        entry = self._followers.next_delivery(self._id)
        if entry is None or entry.nonce != nonce:
            return
        for path in self._followers.delivered(follower, entry, self._clock.now().isoformat()):
            path.unlink(missing_ok=True)

    def _behind(self, why: str) -> None:
        for path in self._followers.fall_behind(self._relationship, self._id, why):
            path.unlink(missing_ok=True)

    def _approach(self, relationship: Relationship, follower: Follower, writer: Writer) -> bool:
        """Bring it nearer to the first target's replica, or level with it."""
        key = key_of(relationship, self._key)
        lead = ReplicaLog.read(self._stores(relationship.store), relationship.replica, key=key)
        joining = follower.stage is Stage.JOINING
        wanted = (
            next((one for one in lead.records if one.nonce == follower.base), None)
            if joining
            else last_state(lead.records)
        )
        if wanted is None:
            if joining and follower.base:
                self._behind("the record that it was brought to was merged away meanwhile")
                return True
            # There is nothing in the first replica yet; what comes is for both.
            return self._join_empty(follower, writer)
        began = self._clock.monotonic()
        try:
            copy_boot_files(lead.place, writer.place)
            if not (writer.newest and writer.newest.nonce == wanted.nonce):
                self._copy(relationship, lead, wanted, writer)
        except (Damaged, ObjectMissing):
            # A merge may have taken logs of the first replica away meanwhile.
            if lead.again().head.merged == lead.head.merged:
                raise
            return True
        if joining:
            self._arrive(follower, wanted, writer)
        elif self._clock.monotonic() - began < QUICK:
            self._followers.join(self._relationship, self._id)
            _JOINED.reach()
        return True

    def _join_empty(self, follower: Follower, writer: Writer) -> bool:
        if writer.newest is not None:
            return False
        if follower.stage is Stage.BEHIND and self._followers.join(self._relationship, self._id):
            return True
        self._followers.level(self._id, "", "", self._clock.now().isoformat())
        return True

    def _arrive(self, follower: Follower, wanted: Record, writer: Writer) -> None:
        """Everything of the base is there: say so in its chain, and in the books."""
        if not (writer.newest and writer.newest.nonce == wanted.nonce):
            states = tuple(DiskState(id=disk.id, size=disk.size) for disk in wanted.disks)
            point = wanted.kind == "point"
            writer.commit(
                Draft(
                    kind="point" if point else "scan",
                    nonce=wanted.nonce,
                    at=wanted.at,
                    disks=states,
                    consistency=wanted.consistency if point else "",
                    note=wanted.note if point else "",
                    machine=wanted.machine if point else None,
                )
            )
        _BASED.reach()
        newest = wanted.at if wanted.kind == "point" else ""
        self._followers.level(self._id, wanted.nonce, newest, self._clock.now().isoformat())

    def _copy(self, relationship: Relationship, lead: ReplicaLog, wanted: Record, writer: Writer) -> None:
        """Store what differs from the first replica as at `wanted`, as parts of scans; no point."""
        folder = self._books.folder / "following" / str(self._id)
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        try:
            for disk in wanted.disks:
                self._copy_disk(lead, wanted, disk, writer, relationship, folder)
        finally:
            shutil.rmtree(folder)

    def _copy_disk(
        self,
        lead: ReplicaLog,
        wanted: Record,
        disk: DiskState,
        writer: Writer,
        relationship: Relationship,
        folder: Path,
    ) -> None:
        cipher = lead.cipher()
        own = ReplicaLog.read(writer.place.store, writer.place.name, key=writer.place.key)
        blocks = block_count(disk.size)
        image = lead.image(wanted.seq, disk.id)

        def log() -> DiskLog:
            log_id = ULID()
            header = LogHeader(relationship.replica_id, log_id.bytes, disk.id, disk.size)
            return DiskLog(folder / f"{log_id}.hrl", header, cipher)

        with closing(KnownBlocks.empty(folder / "known", blocks)) as known:
            learn_disk(own, last_state(own.records), disk.id, known, blocks)
            part = log()
            try:
                for region in pieces([Extent(0, blocks)], REGION_BLOCKS):
                    numbers = np.arange(region.offset, region.end, dtype=np.uint32)
                    differ = image.hashes(region.offset, region.length) != known.lookup(numbers)
                    found = numbers[differ]
                    if len(found):
                        lacking = DirtyBlocks(found, np.full(len(found), ALL_PAGES, np.uint16))
                        Extractor(known, part.writer, hashed=hash_of(cipher)).round(image, lacking)
                    if part.stored >= SCAN_LOG:
                        self._commit_part(part, wanted, disk.id, writer)
                        part = log()
                self._commit_part(part, wanted, disk.id, writer)
            finally:
                part.abandon()

    def _commit_part(self, part: DiskLog, wanted: Record, disk_id: str, writer: Writer) -> None:
        sealed = part.seal()
        if sealed is None:
            return
        reference: LogReference = writer.upload(sealed)
        states = tuple(
            DiskState(id=one.id, size=one.size, logs=(reference,) if one.id == disk_id else ())
            for one in wanted.disks
        )
        writer.commit(
            Draft(kind="scan", nonce=self._new_id(), at=self._clock.now().isoformat(), disks=states)
        )
        sealed.path.unlink()
        _COPIED.reach()

    def _note(self, follower: Follower, error: StandbyError, *, fenced: bool = False) -> None:
        """As for the first target: tried again after 1, 2, 4, 8, 10, then every 30 minutes."""
        if follower.stage is not Stage.LEVEL or not isinstance(error, Recoverable):
            # Only an entry is sent again as it was (W2); what differs is found anew.
            self._writer = None
        now = self._clock.now().timestamp()
        before = follower.trouble
        failures = before.failures + 1 if before else 1
        trouble = Trouble(
            error=str(error),
            kind=type(error).__name__,
            failures=failures,
            first=before.first if before else now,
            retry_at=now + wait_seconds(failures) if isinstance(error, Recoverable) else None,
        )
        self._followers.set_trouble(self._id, trouble, fenced=fenced)
