"""The agent's books: what it must still know after a kill or a power cut, in one SQLite file.

Every method is one durable transaction. The books are the agent's own: a lock on their directory keeps a
second agent away.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import msgspec

from standby.errors import InvalidRequest, NeedsPerson, Recoverable
from standby.records import MachineDescription
from standby.replica.documents import Kind
from standby.replica.log import SealedLog
from standby.replication import holder
from standby.replication.policy import Policy
from standby.replication.states import State, Status

UNKNOWN: Final = -1
"""`learned` of a disk whose known hashes must be filled from the store."""

_FILE: Final = "agent.sqlite"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS relationship (
  id TEXT PRIMARY KEY, machine TEXT NOT NULL, store TEXT NOT NULL, replica TEXT NOT NULL,
  replica_id TEXT NOT NULL, policy TEXT NOT NULL, spool TEXT NOT NULL,
  state TEXT NOT NULL, before_pause TEXT, active INTEGER NOT NULL DEFAULT 0,
  committed TEXT NOT NULL DEFAULT '', failures INTEGER NOT NULL DEFAULT 0, first_failure REAL,
  retry_at REAL, error TEXT NOT NULL DEFAULT '') STRICT;
CREATE TABLE IF NOT EXISTS disk (
  relationship TEXT NOT NULL REFERENCES relationship(id) ON DELETE CASCADE, id TEXT NOT NULL,
  size INTEGER NOT NULL, scan TEXT NOT NULL, scanned INTEGER NOT NULL, learned INTEGER NOT NULL,
  PRIMARY KEY (relationship, id)) STRICT;
CREATE TABLE IF NOT EXISTS entry (
  ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
  relationship TEXT NOT NULL REFERENCES relationship(id) ON DELETE CASCADE,
  kind TEXT NOT NULL, body TEXT NOT NULL) STRICT;
"""


class BooksUnwritable(Recoverable):
    """The books cannot be written (no space, or the volume is gone); nothing was forgotten."""


class BooksDamaged(NeedsPerson):
    """The books' file is not what SQLite wrote there."""


class DiskBook(msgspec.Struct, frozen=True, kw_only=True):
    """One protected disk.

    scan: why all of it must be compared with the replica, or "". scanned: bytes that this scan has done.
    learned: the newest entry whose logs the known hashes include, or UNKNOWN.
    """

    id: str
    size: int
    scan: str
    scanned: int
    learned: int


class Relationship(msgspec.Struct, frozen=True, kw_only=True):
    """A machine and its replica, as this agent keeps them.

    active: the round of change tracking since which nothing is in a log yet. committed: nonce of the
    newest record that is known to be committed. retry_at: seconds since 1970.
    """

    id: str
    machine: str
    store: str
    replica: str
    replica_id: UUID
    policy: Policy
    spool: str
    status: Status
    active: int
    committed: str
    failures: int
    first_failure: float | None
    retry_at: float | None
    error: str
    disks: tuple[DiskBook, ...]

    def disk(self, disk_id: str) -> DiskBook:
        return next(disk for disk in self.disks if disk.id == disk_id)


class LocalLog(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed log that waits to be uploaded: SealedLog in terms that JSON has."""

    path: str
    log_id: str
    size: int
    sha256: str
    root: str
    rows: int
    data: int

    @classmethod
    def of(cls, log: SealedLog) -> LocalLog:
        return cls(
            path=str(log.path),
            log_id=log.log_id.hex(),
            size=log.size,
            sha256=log.sha256,
            root=log.root,
            rows=log.rows,
            data=log.data,
        )

    def sealed(self, disk_id: str) -> SealedLog:
        log_id = bytes.fromhex(self.log_id)
        return SealedLog(
            Path(self.path), log_id, disk_id, self.size, self.sha256, self.root, self.rows, self.data
        )


class EntryDisk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    size: int
    logs: tuple[LocalLog, ...] = ()


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What will become one record of the replica. changed: bytes that the guest wrote, in whole pages."""

    kind: Kind
    nonce: str
    at: str
    disks: tuple[EntryDisk, ...]
    consistency: str = ""
    note: str = ""
    machine: MachineDescription | None = None
    changed: int = 0
    ordinal: int = 0

    @property
    def stored(self) -> int:
        """Bytes that its logs take."""
        return sum(log.size for disk in self.disks for log in disk.logs)


class Books:
    """Thread-safe. Raises BooksUnwritable from every method that writes."""

    def __init__(self, folder: Path) -> None:
        """Open the books in `folder`, made if missing. Raises InvalidRequest if an agent has them open.

        `scratch` below it is where cuts keep what a guest overwrites.
        """
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True, exist_ok=True)
        self._lock_file = holder.take(folder)
        self.folder = folder
        self._lock = threading.RLock()
        self._db = _connect(f"file:{quote(str(folder / _FILE))}")
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self.close()
            raise _told(folder, error) from error

    @classmethod
    def reading(cls, folder: Path) -> Books:
        """The books as they are now, also while an agent writes them. Raises InvalidRequest if none are there."""
        if not (folder / _FILE).exists():
            raise InvalidRequest(
                "there are no books of an agent",
                subject=str(folder),
                hint="name its state directory with --state; `standby vm protect` makes one",
            )
        books = cls.__new__(cls)
        books.folder = folder
        books.scratch = folder / "scratch"
        books._lock_file = -1
        books._lock = threading.RLock()
        books._db = _connect(f"file:{quote(str(folder / _FILE))}?mode=ro")
        return books

    def close(self) -> None:
        """Let the books go; closing twice is harmless."""
        self._db.close()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def add(self, relationship: Relationship) -> None:
        """Enter a new relationship with its disks. Raises InvalidRequest if the machine has one."""
        with self._write() as db:
            taken = db.execute(
                "SELECT id FROM relationship WHERE id = ? OR machine = ?",
                (relationship.id, relationship.machine),
            ).fetchone()
            if taken:
                raise InvalidRequest("it is protected already", subject=relationship.machine)
            db.execute(
                "INSERT INTO relationship (id, machine, store, replica, replica_id, policy, spool, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    relationship.id,
                    relationship.machine,
                    relationship.store,
                    relationship.replica,
                    str(relationship.replica_id),
                    msgspec.json.encode(relationship.policy).decode(),
                    relationship.spool,
                    relationship.status.state,
                ),
            )
            db.executemany(
                "INSERT INTO disk VALUES (?, ?, ?, ?, ?, ?)",
                [(relationship.id, d.id, d.size, d.scan, d.scanned, d.learned) for d in relationship.disks],
            )

    def remove(self, relationship: str) -> None:
        with self._write() as db:
            db.execute("DELETE FROM relationship WHERE id = ?", (relationship,))

    def relationships(self) -> list[Relationship]:
        with self._lock:
            ids = [row["id"] for row in self._db.execute("SELECT id FROM relationship ORDER BY machine")]
            return [self.get(one) for one in ids]

    def get(self, relationship: str) -> Relationship:
        with self._lock:
            row = self._db.execute("SELECT * FROM relationship WHERE id = ?", (relationship,)).fetchone()
            disks = self._db.execute(
                "SELECT id, size, scan, scanned, learned FROM disk WHERE relationship = ? ORDER BY id",
                (relationship,),
            ).fetchall()
        if row is None:
            raise InvalidRequest("there is no such relationship", subject=relationship)
        fields: dict[str, Any] = dict(row)
        before = fields.pop("before_pause")
        status = Status(State(fields.pop("state")), State(before) if before else None)
        fields["policy"] = msgspec.json.decode(fields["policy"], type=Policy)
        fields["replica_id"] = UUID(fields["replica_id"])
        return Relationship(status=status, disks=tuple(DiskBook(**disk) for disk in disks), **fields)

    def set_status(self, relationship: str, status: Status) -> None:
        with self._write() as db:
            db.execute(
                "UPDATE relationship SET state = ?, before_pause = ? WHERE id = ?",
                (status.state, status.before_pause, relationship),
            )

    def set_policy(self, relationship: str, policy: Policy) -> None:
        with self._write() as db:
            body = msgspec.json.encode(policy).decode()
            db.execute("UPDATE relationship SET policy = ? WHERE id = ?", (body, relationship))

    def set_active(self, relationship: str, active: int) -> None:
        with self._write() as db:
            db.execute("UPDATE relationship SET active = ? WHERE id = ?", (active, relationship))

    def set_error(
        self, relationship: str, error: str, failures: int, first: float | None, retry_at: float | None
    ) -> None:
        with self._write() as db:
            db.execute(
                "UPDATE relationship SET error = ?, failures = ?, first_failure = ?, retry_at = ?"
                " WHERE id = ?",
                (error, failures, first, retry_at, relationship),
            )

    def require_scan(self, relationship: str, reasons: Mapping[str, str]) -> None:
        """All of these disks must be compared with the replica, from their first byte on."""
        with self._write() as db:
            db.executemany(
                "UPDATE disk SET scan = ?, scanned = 0 WHERE relationship = ? AND id = ?",
                [(reason, relationship, disk) for disk, reason in reasons.items()],
            )

    def set_size(self, relationship: str, disk: str, size: int) -> None:
        with self._write() as db:
            db.execute(
                "UPDATE disk SET size = ? WHERE relationship = ? AND id = ?", (size, relationship, disk)
            )

    def set_scanned(self, relationship: str, disk: str, scanned: int) -> None:
        with self._write() as db:
            db.execute(
                "UPDATE disk SET scanned = ? WHERE relationship = ? AND id = ?", (scanned, relationship, disk)
            )

    def enter_scan(self, relationship: str, entry: Entry, disk: str, scanned: int) -> Entry:
        """C2: a scan's log is sealed, and the scan has come this far."""
        with self._write():
            self.set_scanned(relationship, disk, scanned)
            return self._enter(relationship, entry)

    def enter_point(self, relationship: str, entry: Entry, active: int) -> Entry:
        """C2: a cut's logs are sealed; changes since are in round `active`. It closes all scans."""
        with self._write() as db:
            db.execute("UPDATE relationship SET active = ? WHERE id = ?", (active, relationship))
            db.execute("UPDATE disk SET scan = '', scanned = 0 WHERE relationship = ?", (relationship,))
            return self._enter(relationship, entry)

    def set_learned(self, relationship: str, disks: Sequence[str], learned: int) -> None:
        with self._write() as db:
            db.executemany(
                "UPDATE disk SET learned = ? WHERE relationship = ? AND id = ?",
                [(learned, relationship, disk) for disk in disks],
            )

    def queue(self, relationship: str) -> list[Entry]:
        """What waits to be committed, in order."""
        with self._lock:
            rows = self._db.execute(
                "SELECT ordinal, body FROM entry WHERE relationship = ? ORDER BY ordinal", (relationship,)
            ).fetchall()
        return [
            msgspec.structs.replace(msgspec.json.decode(row["body"], type=Entry), ordinal=row["ordinal"])
            for row in rows
        ]

    def shipped(self, relationship: str, entry: Entry) -> None:
        """The entry is committed in the store (W3 done): let it go."""
        with self._write() as db:
            db.execute("DELETE FROM entry WHERE ordinal = ?", (entry.ordinal,))
            db.execute("UPDATE relationship SET committed = ? WHERE id = ?", (entry.nonce, relationship))

    def diverged(self, relationship: str, committed: str, reason: str) -> None:
        """The replica is not what these books say: drop the queue, compare every disk with it anew."""
        with self._write() as db:
            db.execute("DELETE FROM entry WHERE relationship = ?", (relationship,))
            db.execute("UPDATE relationship SET committed = ? WHERE id = ?", (committed, relationship))
            db.execute(
                "UPDATE disk SET scan = ?, scanned = 0, learned = ? WHERE relationship = ?",
                (reason, UNKNOWN, relationship),
            )

    def _enter(self, relationship: str, entry: Entry) -> Entry:
        cursor = self._db.execute(
            "INSERT INTO entry (relationship, kind, body) VALUES (?, ?, ?)",
            (relationship, entry.kind, msgspec.json.encode(entry).decode()),
        )
        return msgspec.structs.replace(entry, ordinal=cursor.lastrowid or 0)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.DatabaseError as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise _told(self.folder, error) from error


def _told(folder: Path, error: sqlite3.DatabaseError) -> BooksUnwritable | BooksDamaged:
    if isinstance(error, sqlite3.OperationalError):
        return BooksUnwritable(
            f"the agent's books cannot be written: {error}",
            subject=str(folder),
            hint="make room on this volume",
        )
    return BooksDamaged(
        f"the agent's books are damaged: {error}",
        subject=str(folder / _FILE),
        tried="reading them; replicas in stores are not concerned",
        hint="move the file away and run `standby vm protect` again: the disks are compared by hashes, points stay",
    )


def _connect(uri: str) -> sqlite3.Connection:
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    return db
