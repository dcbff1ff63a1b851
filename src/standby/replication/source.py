"""The source's half of a relationship: scans and cuts become entries in the books.

The rules are C1 to C7 of docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from ulid import ULID

from standby import failpoints
from standby.block.disk import DiskUnreachable
from standby.block.extent import Extent
from standby.clock import Clock
from standby.errors import Bug, ResyncRequired
from standby.hypervisor.base import Consistency, Lost, MachineUnreachable, Tracking, TrackingLost, Tracks
from standby.hypervisor.meeting import Meeting
from standby.records import MachineDescription
from standby.replica.documents import Kind
from standby.replica.keys import Key
from standby.replica.log import SealedLog
from standby.replication.books import Books
from standby.replication.dirty import EMPTY, DirtyBlocks, dirty_blocks, together
from standby.replication.diskset import let_detached_go, refuse_added, take_in_added
from standby.replication.entries import Entry, EntryDisk, LocalLog
from standby.replication.extract import WORKERS, Extractor, hash_of
from standby.replication.known import KnownLost
from standby.replication.learning import Learning
from standby.replication.precopy import once_more
from standby.replication.relationship import UNKNOWN, Relationship
from standby.replication.resync import Reason, of_lost
from standby.replication.room import Volume
from standby.replication.spool import Spool
from standby.replication.statistics import DiskChange, change_of
from standby.replication.unlock import cipher_of

SCAN_LOG: Final = 512 << 20
"""Stored bytes after which a scan seals its log and commits its progress."""

SCAN_READ: Final = 8 << 30
"""Bytes read after which it does so however little it found: what a kill costs, and how long a pause takes."""

SCAN_STEP: Final = 256 << 20
"""Bytes of the disk that are scanned between two looks at the log's size."""

HELD_UNITS: Final = 16
"""Units of 4 MiB that a cycle's small rounds keep in memory, to hash and compress them once the cut is released."""

_RECOVERED = failpoints.declare("source.recovered")
_BEGUN = failpoints.declare("source.begun")
_LOSS_NOTED = failpoints.declare("source.loss_noted")
_SCAN_READ = failpoints.declare("scan.read")
_SCAN_SEALED = failpoints.declare("scan.sealed")
_SCAN_ENTERED = failpoints.declare("scan.entered")
_SCAN_LEARNED = failpoints.declare("scan.learned")
_PRECOPIED = failpoints.declare("cycle.precopied")
_CUT_READ = failpoints.declare("cycle.read")
_RELEASED = failpoints.declare("cycle.released")
_SEALED = failpoints.declare("cycle.sealed")
_ENTERED = failpoints.declare("cycle.entered")
_LEARNED = failpoints.declare("cycle.learned")
_FORGOTTEN = failpoints.declare("cycle.forgotten")

QUEUE_LOST: Final = "a log that waited for the store is gone or was cut short"


class QueueLost(ResyncRequired):
    """The spool was tampered with: what waited for the store can no longer be sent."""


ScanProgress = Callable[[str, int], None]
"""Told a disk's id and the bytes of it that were scanned since the last call."""


def no_progress(_disk: str, _count: int) -> None:
    """For those who do not ask."""


class CycleReport(NamedTuple):
    """changed: bytes that the guest wrote since the cut before, in whole pages. under_cut: those that were
    read while the cut was open. stored: bytes of the logs. window: seconds that the cut was open. churn: where
    it wrote, by disk."""

    entry: Entry
    changed: int
    under_cut: int
    stored: int
    window: float
    churn: Mapping[str, DiskChange]


class Source:
    """Used by one thread at a time. `describe` tells the machine as a point should keep it.

    key: opens an encrypted replica; without it the key file that the books name is read.
    """

    def __init__(
        self,
        books: Books,
        relationship: str,
        hypervisor: Tracks,
        describe: Callable[[], MachineDescription],
        clock: Clock,
        *,
        workers: int = WORKERS,
        key: Key | None = None,
    ) -> None:
        self._books = books
        self._id = relationship
        self._hypervisor = hypervisor
        self._describe = describe
        self._clock = clock
        self._workers = workers
        self._tracking: Tracking | None = None
        self._spool = Spool(books, describe)
        self._key = key
        self._learning = Learning(books, relationship, key)

    @property
    def ready(self) -> bool:
        """Whether change tracking is known to be in order."""
        return self._tracking is not None

    def recover(self) -> Mapping[str, str]:
        """Clean up after a crash and bring change tracking in order (C4).

        Returns the disks that must be scanned, with the reason; the books say so already.
        """
        self.let_go()
        self._spool.forget_folders()
        relationship = self._books.get(self._id)
        # Needs no machine, and comes before anything is shipped: what is shipped cannot be learned any more.
        self._check_queue(relationship)
        self._learning.catch_up(relationship)
        self._spool.remove_orphans(relationship)
        tracking = self._hypervisor.tracking(relationship.machine, relationship.id, self._books.scratch)
        with ExitStack() as stack:
            stack.callback(tracking.close)
            found = tracking.recover(
                relationship.active,
                {disk.id: disk.size for disk in relationship.disks},
                {disk.id: disk.round for disk in relationship.disks if disk.round},
            )
            _RECOVERED.reach()
            let_detached_go(
                self._books, relationship, [disk for disk, why in found.items() if why is Lost.DETACHED]
            )
            lost = {
                disk: of_lost(why).value
                for disk, why in found.items()
                if why is not None and why is not Lost.DETACHED
            }
            lost |= dict.fromkeys(
                take_in_added(self._books, self._books.get(self._id), self._describe()), Reason.ADDED.value
            )
            if lost:
                self._note_sizes({disk for disk, reason in found.items() if reason is Lost.RESIZED})
                self._books.require_scan(self._id, lost)
                number = relationship.active + 1
                tracking.begin(number, sorted(lost))
                _BEGUN.reach()
                self._books.set_begun(self._id, sorted(lost), number)
                _LOSS_NOTED.reach()
            stack.pop_all()
        self._tracking = tracking
        return lost

    def scan(
        self,
        disk_id: str,
        progress: ScanProgress = no_progress,
        enough: Callable[[], bool] = lambda: False,
    ) -> Entry | None:
        """Scan on from where the books say, until the log is full, much is read or it is enough (C4, C6).

        Returns the entry with what differed, or None if nothing did.
        """
        with self._keeping_tracking() as tracking:
            relationship = self._books.get(self._id)
            self._refuse_unknown(relationship)
            disk = relationship.disk(disk_id)
            known = self._learning.known(disk)
            cipher = cipher_of(relationship, self._key)
            log = self._spool.new_log(relationship, disk_id, disk.size, cipher)
            at = disk.scanned
            with ExitStack() as stack:
                stack.callback(log.abandon)
                live = {one: stack.enter_context(closing(handle)) for one, handle in tracking.live().items()}
                extractor = Extractor(known, log.writer, self._workers, hashed=hash_of(cipher))
                while (
                    at < disk.size
                    and log.stored < SCAN_LOG
                    and at - disk.scanned < SCAN_READ
                    and not enough()
                ):
                    end = min(at + SCAN_STEP, disk.size)
                    extractor.scan(
                        live[disk_id], Extent(at, end - at), lambda count: progress(disk_id, count)
                    )
                    at = end
                _SCAN_READ.reach()
                sealed = log.seal()
            if sealed is None:
                self._books.set_scanned(self._id, disk_id, at)
                return None
            _SCAN_SEALED.reach()
            entry = self._entry("scan", self._clock.now().isoformat(), {disk_id: sealed}, relationship)
            with self._books.learning:
                entry = self._books.enter_scan(self._id, entry, disk_id, at)
                _SCAN_ENTERED.reach()
                self._learning.learn(entry)
            _SCAN_LEARNED.reach()
            return entry

    def cycle(
        self,
        consistency: Consistency = Consistency.CRASH,
        kind: Kind = "point",
        meeting: Meeting | None = None,
    ) -> CycleReport:
        """Make one point (C1 to C3): pre-copy rounds, a cut, sealed logs, an entry; then forget rounds.

        meeting: at an instant that other machines have too, if that succeeds; with application consistency only.
        """
        with self._keeping_tracking() as tracking:
            relationship = self._books.get(self._id)
            self._refuse_unknown(relationship)
            self._refuse_unscanned(relationship)
            machine = self._describe()
            refuse_added(relationship, machine)
            asked = self._clock.now().isoformat()
            pending = sum(tracking.pending().values())
            if not pending and consistency is Consistency.CRASH:
                return self._quiet_point(relationship, machine, kind, asked)
            cipher = cipher_of(relationship, self._key)
            logs = {
                disk.id: self._spool.new_log(relationship, disk.id, disk.size, cipher)
                for disk in relationship.disks
            }
            with ExitStack() as stack:
                for log in logs.values():
                    stack.callback(log.abandon)
                hold = max(1, HELD_UNITS // len(relationship.disks))
                extractors = {
                    disk.id: Extractor(
                        self._learning.known(disk),
                        logs[disk.id].writer,
                        self._workers,
                        hold=hold,
                        hashed=hash_of(cipher),
                    )
                    for disk in relationship.disks
                }
                churn = dict.fromkeys(extractors, EMPTY)
                number, changed = self._precopy(tracking, relationship, extractors, pending, churn)
                with tracking.cut(number, consistency, meeting) as cut:
                    opened = self._clock.monotonic()
                    under_cut = 0
                    for disk_id, ended in cut.disks.items():
                        dirty = dirty_blocks(ended.dirty, ended.disk.size)
                        under_cut += dirty.nbytes
                        churn[disk_id] = together(churn[disk_id], dirty)
                        extractors[disk_id].round(ended.disk, dirty)
                    _CUT_READ.reach()
                    at, reached, note, group = cut.at, cut.consistency, cut.note, cut.group
                window = self._clock.monotonic() - opened
                _RELEASED.reach()
                for extractor in extractors.values():
                    extractor.finish()
                sealed = {disk_id: done for disk_id, log in logs.items() if (done := log.seal())}
            _SEALED.reach()
            entry = self._entry(
                kind,
                at.isoformat(),
                sealed,
                relationship,
                consistency=reached.value,
                note=note,
                machine=machine,
                changed=changed + under_cut,
                group=group,
            )
            with self._books.learning:
                entry = self._books.enter_point(self._id, entry, number)
                _ENTERED.reach()
                self._learning.learn(entry)
            _LEARNED.reach()
            tracking.forget(number)
            _FORGOTTEN.reach()
            written = {
                disk.id: change_of(churn[disk.id], disk.size)
                for disk in relationship.disks
                if len(churn[disk.id].blocks)
            }
            return CycleReport(entry, changed + under_cut, under_cut, entry.stored, window, written)

    def drop(self, disks: Collection[str], reason: Reason, since: int = 0) -> None:
        """Give up what these disks have queued from the entry `since` on: they are compared anew."""
        self.let_go()
        for path in self._books.drop_logs(self._id, disks, reason.value, since):
            path.unlink(missing_ok=True)

    def volumes(self) -> Mapping[str, Volume]:
        """Where the logs of disks lie, as far as it is known without asking the machine."""
        return self._spool.volumes(self._books.get(self._id))

    def let_go(self) -> None:
        """Drop connections and handles; rounds go on recording."""
        if self._tracking:
            self._tracking.close()
            self._tracking = None
        self._learning.close()

    def stop(self) -> None:
        """End change tracking for good: nothing of this relationship stays on the machine."""
        relationship = self._books.get(self._id)
        if self._tracking is None:
            self._tracking = self._hypervisor.tracking(
                relationship.machine, relationship.id, self._books.scratch
            )
        self._tracking.stop()
        self.let_go()

    def known_path(self, disk_id: str) -> Path:
        return self._learning.path(disk_id)

    @contextmanager
    def _keeping_tracking(self) -> Iterator[Tracking]:
        """Whatever goes wrong in between, the rounds must be brought in order before they are used again."""
        tracking = self._tracking
        if tracking is None:
            raise AssertionError("recover() comes first")
        try:
            yield tracking
        except BaseException as error:
            self.let_go()
            if isinstance(error, TrackingLost):
                self._books.require_scan(self._id, {error.disk: of_lost(error.lost).value})
            if isinstance(error, DiskUnreachable):
                raise MachineUnreachable(
                    f"its disks can no longer be read: {error.subject}: {error.cause}",
                    subject=self._books.get(self._id).machine,
                    tried="the cycle was given up, nothing was forgotten",
                    hint="see whether the machine runs; replication goes on by itself once it answers",
                ) from error
            raise

    def _precopy(
        self,
        tracking: Tracking,
        relationship: Relationship,
        extractors: Mapping[str, Extractor],
        pending: int,
        churn: dict[str, DirtyBlocks],
    ) -> tuple[int, int]:
        """Read what is dirty from the live disks while that pays. Returns the cut's number, bytes read."""
        number = relationship.active + 1
        rounds = before = changed = 0
        while once_more(rounds, before, pending):
            with ExitStack() as handles:
                ended = tracking.advance(number)
                for one in ended.values():
                    handles.enter_context(closing(one.disk))
                before = 0
                for disk, one in ended.items():
                    dirty = dirty_blocks(one.dirty, one.disk.size)
                    before += dirty.nbytes
                    churn[disk] = together(churn[disk], dirty)
                    extractors[disk].round(one.disk, dirty)
            _PRECOPIED.reach()
            changed += before
            rounds += 1
            number += 1
            pending = sum(tracking.pending().values())
        return number, changed

    def _quiet_point(
        self, relationship: Relationship, machine: MachineDescription, kind: Kind, at: str
    ) -> CycleReport:
        """Nothing was written since the last cut: the disks are still as they were then."""
        entry = self._entry(kind, at, {}, relationship, consistency=Consistency.CRASH.value, machine=machine)
        entry = self._books.enter_point(self._id, entry, relationship.active)
        return CycleReport(entry, 0, 0, 0, 0.0, {})

    def _entry(
        self,
        kind: Kind,
        at: str,
        sealed: Mapping[str, SealedLog],
        relationship: Relationship,
        *,
        consistency: str = "",
        note: str = "",
        machine: MachineDescription | None = None,
        changed: int = 0,
        group: str = "",
    ) -> Entry:
        disks = tuple(
            EntryDisk(
                id=disk.id,
                size=disk.size,
                logs=(LocalLog.of(sealed[disk.id]),) if disk.id in sealed else (),
            )
            for disk in relationship.disks
        )
        return Entry(
            kind=kind,
            nonce=str(ULID()),
            at=at,
            disks=disks,
            consistency=consistency,
            note=note,
            machine=machine,
            changed=changed,
            group=group,
        )

    def _note_sizes(self, resized: Collection[str]) -> None:
        """From here on points have the disks' new sizes; older points keep theirs."""
        for disk in self._describe().disks:
            if disk.id in resized:
                self._books.set_size(self._id, disk.id, disk.size)
                self._learning.close(disk.id)

    def _refuse_unscanned(self, relationship: Relationship) -> None:
        for disk in relationship.disks:
            if disk.scan and disk.scanned < disk.size:
                raise Bug(
                    "a point would close a scan that is not done",
                    subject=f"{relationship.machine}, {disk.id}",
                )

    def _refuse_unknown(self, relationship: Relationship) -> None:
        for disk in relationship.disks:
            if disk.learned == UNKNOWN:
                raise KnownLost(
                    "it is not known here what the replica has of this disk",
                    subject=f"{relationship.machine}, {disk.id}",
                    tried="nothing was read or sent",
                    hint="it is learned from the store as soon as that can be reached",
                )

    def _check_queue(self, relationship: Relationship) -> None:
        """Raises QueueLost if a log that waits for the store is gone or cut short.

        Points before it are still what they were.
        """
        with self._books.learning:  # so that none is let go meanwhile
            lost = [
                (entry.ordinal, disk.id, log)
                for entry in self._books.queue(self._id)
                for disk in entry.disks
                for log in disk.logs
                if _length(Path(log.path)) != log.size
            ]
            if not lost:
                return
            self.drop({disk for _, disk, _ in lost}, Reason.LOG_LOST, since=min(one for one, _, _ in lost))
        raise QueueLost(
            QUEUE_LOST,
            subject=f"{relationship.machine}, {lost[0][2].path}",
            tried="what waited of this disk is dropped, with the points that it would have become",
            hint="nothing to do: the disk is compared with the replica by hashes; its points stay",
        )


def _length(path: Path) -> int:
    """In bytes; -1 if there is no such file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
