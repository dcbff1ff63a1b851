"""The agent's books: what it must still know after a kill or a power cut, in one SQLite file.

Every method is one durable transaction. The books are the agent's own: a lock on their directory keeps a
second agent away.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import msgspec

from standby.errors import InvalidRequest, NeedsPerson, Recoverable
from standby.replica.keys import WrappedKey
from standby.replication import holder, made, schema
from standby.replication.entries import Entry, Queue
from standby.replication.limits import UNLIMITED, Bandwidth
from standby.replication.made import Made
from standby.replication.policy import Policy
from standby.replication.relationship import UNKNOWN, Connection, DiskBook, Relationship, Side, Trouble
from standby.replication.states import State, Status

_FILE: Final = "agent.sqlite"


class BooksUnwritable(Recoverable):
    """The books cannot be written (no space, or the volume is gone); nothing was forgotten."""


class BooksDamaged(NeedsPerson):
    """The books are no longer what was written: not SQLite, or not ours."""


class Books:
    """Thread-safe. Raises BooksUnwritable from every method that writes.

    learning: held from entering an entry until it is learned, and while a shipped one is let go.
    reporting: points that are committed are kept until `told`; set by who tells them (a vault's link).
    """

    reporting = False

    def __init__(self, folder: Path) -> None:
        """Open the books in `folder`, made if missing. Raises InvalidRequest if an agent has them open.

        `scratch` below it is where cuts keep what a guest overwrites.
        """
        self.scratch = folder / "scratch"
        self.learning = threading.Lock()
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._lock_file = holder.take(folder)
        except OSError as error:
            raise _unwritable(folder, error.strerror or str(error)) from error
        self.folder = folder
        self._lock = threading.RLock()
        try:
            with self._failures():
                self._db = _connect(f"file:{quote(str(folder / _FILE))}")
                self._read: dict[str, Relationship] | None = {}
                for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                    self._db.execute(f"PRAGMA {pragma}")
                schema.bring_up(self._db, str(folder / _FILE))
        except BaseException:
            os.close(self._lock_file)
            raise

    @classmethod
    def reading(cls, folder: Path) -> Books:
        """The books as they are now, also while an agent writes them.

        Raises InvalidRequest if none are there, or if they are of another version.
        """
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
        books.learning = threading.Lock()
        books._lock = threading.RLock()
        books._read = None
        with books._failures():
            books._db = _connect(f"file:{quote(str(folder / _FILE))}?mode=ro")
            schema.check(books._db, str(folder / _FILE))
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
                "INSERT INTO relationship (id, machine, connection, store, replica, replica_id, policy, spool,"
                " state, excluded, taking_over) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    relationship.id,
                    relationship.machine,
                    _json(relationship.connection) if relationship.connection else "",
                    relationship.store,
                    relationship.replica,
                    str(relationship.replica_id),
                    _json(relationship.policy),
                    relationship.spool,
                    relationship.status.state,
                    _json(relationship.excluded),
                    relationship.taking_over,
                ),
            )
            for disk in relationship.disks:
                self.add_disk(relationship.id, disk)

    def remove(self, relationship: str) -> None:
        with self._write() as db:
            db.execute("DELETE FROM relationship WHERE id = ?", (relationship,))

    def relationships(self) -> list[Relationship]:
        with self._reading():
            ids = [row["id"] for row in self._db.execute("SELECT id FROM relationship ORDER BY machine")]
            return [self.get(one) for one in ids]

    def get(self, relationship: str) -> Relationship:
        """As it is now. Costs next to nothing while nothing is written."""
        with self._reading():
            if self._read is not None and (read := self._read.get(relationship)):
                return read
            row = self._db.execute("SELECT * FROM relationship WHERE id = ?", (relationship,)).fetchone()
            disks = self._db.execute(
                "SELECT id, size, scan, scanned, learned, round FROM disk WHERE relationship = ? ORDER BY id",
                (relationship,),
            ).fetchall()
            troubles = self._db.execute(
                "SELECT side, body FROM trouble WHERE relationship = ?", (relationship,)
            ).fetchall()
            if row is None:
                raise InvalidRequest("there is no such relationship", subject=relationship)
            fields: dict[str, Any] = dict(row)
            before = fields.pop("before_pause")
            status = Status(State(fields.pop("state")), State(before) if before else None)
            connection = fields.pop("connection")
            fields["taking_over"] = bool(fields["taking_over"])
            fields["policy"] = msgspec.json.decode(fields["policy"], type=Policy)
            fields["excluded"] = msgspec.json.decode(fields["excluded"], type=tuple[str, ...])
            fields["replica_id"] = UUID(fields["replica_id"])
            fields["wrapped"] = msgspec.json.decode(fields["wrapped"], type=tuple[WrappedKey, ...])
            standing = {one["side"]: msgspec.json.decode(one["body"], type=Trouble) for one in troubles}
            found = Relationship(
                status=status,
                connection=msgspec.json.decode(connection, type=Connection) if connection else None,
                capture=standing.get(Side.CAPTURE),
                send=standing.get(Side.SEND),
                disks=tuple(DiskBook(**disk) for disk in disks),
                **fields,
            )
            if self._read is not None and not self._db.in_transaction:
                self._read[relationship] = found
            return found

    def set_status(self, relationship: str, status: Status) -> None:
        self._set(relationship, state=status.state, before_pause=status.before_pause)

    def set_policy(self, relationship: str, policy: Policy) -> None:
        self._set(relationship, policy=_json(policy))

    def set_keys(self, relationship: str, wrapped: Sequence[WrappedKey], key_file: str) -> None:
        """See Relationship. Only ever of the same data key."""
        self._set(relationship, wrapped=_json(wrapped), key_file=key_file)

    def set_connection(self, relationship: str, connection: Connection) -> None:
        self._set(relationship, connection=_json(connection))

    def set_excluded(self, relationship: str, excluded: Collection[str]) -> None:
        self._set(relationship, excluded=_json(sorted(excluded)))

    def set_resync(self, relationship: str, asked: str) -> None:
        self._set(relationship, resync=asked)

    def set_closing(self, relationship: str, ordinal: int) -> None:
        self._set(relationship, closing=ordinal)

    def set_taking_over(self, relationship: str, allowed: bool) -> None:
        self._set(relationship, taking_over=allowed)

    def set_begun(self, relationship: str, disks: Collection[str], number: int) -> None:
        """Change tracking began anew on these disks, with this round."""
        with self._write() as db:
            self._set(relationship, active=number)
            db.executemany(
                "UPDATE disk SET round = ? WHERE relationship = ? AND id = ?",
                [(number, relationship, disk) for disk in disks],
            )

    def set_trouble(self, relationship: str, side: Side, trouble: Trouble | None) -> None:
        with self._write() as db:
            if trouble is None:
                db.execute("DELETE FROM trouble WHERE relationship = ? AND side = ?", (relationship, side))
            else:
                db.execute(
                    "INSERT OR REPLACE INTO trouble (relationship, side, body) VALUES (?, ?, ?)",
                    (relationship, side, _json(trouble)),
                )

    def clear_troubles(self, relationship: str) -> None:
        with self._write() as db:
            db.execute("DELETE FROM trouble WHERE relationship = ?", (relationship,))

    def add_disk(self, relationship: str, disk: DiskBook) -> None:
        with self._write() as db:
            db.execute(
                "INSERT INTO disk (relationship, id, size, scan, scanned, learned) VALUES (?, ?, ?, ?, ?, ?)",
                (relationship, disk.id, disk.size, disk.scan, disk.scanned, disk.learned),
            )

    def remove_disks(self, relationship: str, disks: Collection[str]) -> None:
        """Points from here on are without them; what is queued keeps them."""
        with self._write() as db:
            db.executemany(
                "DELETE FROM disk WHERE relationship = ? AND id = ?", [(relationship, disk) for disk in disks]
            )

    def leave_out(self, relationship: str, disk: str) -> None:
        with self._write():
            self.set_excluded(relationship, {*self.get(relationship).excluded, disk})
            self.remove_disks(relationship, [disk])

    def bandwidth(self) -> Bandwidth:
        """Of all machines together."""
        with self._reading():
            row = self._db.execute("SELECT body FROM setting WHERE name = 'bandwidth'").fetchone()
            return msgspec.json.decode(row["body"], type=Bandwidth) if row else UNLIMITED

    def set_bandwidth(self, bandwidth: Bandwidth) -> None:
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO setting (name, body) VALUES ('bandwidth', ?)", (_json(bandwidth),)
            )

    def require_scan(self, relationship: str, reasons: Mapping[str, str]) -> None:
        """All of these disks must be compared with the replica, from their first byte on."""
        with self._write() as db:
            self.set_closing(relationship, 0)
            db.executemany(
                "UPDATE disk SET scan = ?, scanned = 0 WHERE relationship = ? AND id = ?",
                [(reason, relationship, disk) for disk, reason in reasons.items()],
            )

    def set_size(self, relationship: str, disk: str, size: int) -> None:
        """Its known hashes are those of another length from here on: they are filled anew."""
        with self._write() as db:
            db.execute(
                "UPDATE disk SET size = ?, learned = ? WHERE relationship = ? AND id = ?",
                (size, UNKNOWN, relationship, disk),
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
            if active != self.get(relationship).active:
                db.execute("UPDATE relationship SET active = ? WHERE id = ?", (active, relationship))
                db.execute("UPDATE disk SET round = ? WHERE relationship = ?", (active, relationship))
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
        with self._reading():
            rows = self._db.execute(
                "SELECT ordinal, body FROM entry WHERE relationship = ? ORDER BY ordinal", (relationship,)
            ).fetchall()
            return [_entry(row) for row in rows]

    def queued(self, relationship: str) -> Queue:
        """What waits, in short: costs the same however much it is."""
        with self._reading():
            kinds = dict(
                self._db.execute(
                    "SELECT kind, COUNT(*) FROM entry WHERE relationship = ? GROUP BY kind", (relationship,)
                ).fetchall()
            )
            sizes = self._db.execute(
                "SELECT disk, SUM(bytes) FROM queued WHERE relationship = ? GROUP BY disk", (relationship,)
            ).fetchall()
            (first,) = self._db.execute(
                "SELECT COALESCE(SUM(bytes), 0) FROM queued WHERE ordinal IN"
                " (SELECT ordinal FROM entry WHERE relationship = ?)",
                (relationship,),
            ).fetchone()
            oldest = self._db.execute(
                "SELECT ordinal, body FROM entry WHERE relationship = ? ORDER BY ordinal LIMIT 1",
                (relationship,),
            ).fetchone()
            scans = kinds.pop("scan", 0)
            return Queue(
                points=sum(kinds.values()),
                scans=scans,
                bytes=dict(sizes),
                first_bytes=first,
                oldest=_entry(oldest) if oldest else None,
            )

    def shipped(self, relationship: str, entry: Entry, at: str, seq: int) -> list[Path]:
        """The entry is committed in the store (W3 done), at this time, as record `seq`: let it go. The files that
        nothing names any more: none while a follower waits for them.

        Its logs go with it, so known hashes that have not learned it can only be filled from the store.
        """
        with self._write() as db:
            db.executemany(
                "UPDATE disk SET learned = ? WHERE relationship = ? AND id = ? AND learned < ?",
                [(UNKNOWN, relationship, disk.id, entry.ordinal) for disk in entry.disks if disk.logs],
            )
            db.execute("DELETE FROM entry WHERE ordinal = ?", (entry.ordinal,))
            self._set(relationship, committed=entry.nonce, synced=at)
            if entry.kind in ("point", "seal"):
                self._set(relationship, newest=entry.at)
                if self.reporting:
                    made.note(db, Made(relationship, seq, entry.at, entry.consistency, entry.stored))
            return [] if self.waits(entry.ordinal) else [Path(log.path) for log in entry.logs]

    def waits(self, ordinal: int) -> bool:
        """Whether the entry of this number waits for any target."""
        with self.reading_db() as db:
            found = db.execute(
                "SELECT ordinal FROM entry WHERE ordinal = ? UNION SELECT ordinal FROM delivery WHERE ordinal = ?",
                (ordinal, ordinal),
            ).fetchone()
            return found is not None

    def waiting_logs(self, relationship: str) -> set[str]:
        """The files that wait for any target."""
        with self.reading_db() as db:
            rows = db.execute(
                "SELECT ordinal, body FROM entry WHERE relationship = ? UNION SELECT ordinal, body FROM delivery"
                " WHERE follower IN (SELECT id FROM follower WHERE relationship = ?)",
                (relationship, relationship),
            ).fetchall()
        return {log.path for row in rows for log in _entry(row).logs}

    def untold(self, most: int) -> list[Made]:
        """Committed points that were not `told` yet, the oldest first."""
        with self._reading():
            return made.oldest(self._db, most)

    def told(self, points: list[Made]) -> None:
        if points:
            with self._write() as db:
                made.told(db, points)

    def forget_untold(self) -> None:
        """There is nobody to tell."""
        with self._write() as db:
            db.execute("DELETE FROM made")

    def drop_logs(self, relationship: str, disks: Collection[str], reason: str, since: int = 0) -> list[Path]:
        """Give up the queued logs of these disks from the entry `since` on: they are compared anew.

        Returns the files that nothing names any more. Points that they were to become come to nothing;
        what the entries say of other disks is kept and sent. Followers are behind from here on: what comes builds
        on what the first target has.
        """
        dropped = frozenset(disks)
        with self._write() as db:
            followed = self.waiting_logs(relationship)
            self._all_behind(relationship, "logs of a disk were dropped")
            freed = []
            for entry in self.queue(relationship):
                if entry.ordinal < since:
                    continue
                left = entry.without_logs_of(dropped)
                freed += [Path(log.path) for disk in entry.disks if disk.id in dropped for log in disk.logs]
                if left is None:
                    db.execute("DELETE FROM entry WHERE ordinal = ?", (entry.ordinal,))
                else:
                    db.execute(
                        "UPDATE entry SET kind = ?, body = ? WHERE ordinal = ?",
                        (left.kind, _json(left), entry.ordinal),
                    )
                    self._note_sizes(relationship, left)
            self.set_closing(relationship, 0)
            db.executemany(
                "UPDATE disk SET scan = ?, scanned = 0, learned = ? WHERE relationship = ? AND id = ?",
                [(reason, UNKNOWN, relationship, disk) for disk in dropped],
            )
            left_over = followed - self.waiting_logs(relationship)
            return sorted({*freed, *map(Path, left_over)})

    def diverged(self, relationship: str, committed: str, reason: str) -> None:
        """The replica is not what these books say: drop the queue, compare every disk with it anew."""
        with self._write() as db:
            self._all_behind(relationship, "the first target's replica was not what was left there")
            db.execute("DELETE FROM entry WHERE relationship = ?", (relationship,))
            db.execute(
                "UPDATE relationship SET committed = ?, closing = 0 WHERE id = ?", (committed, relationship)
            )
            db.execute(
                "UPDATE disk SET scan = ?, scanned = 0, learned = ? WHERE relationship = ?",
                (reason, UNKNOWN, relationship),
            )

    def statistics(self, relationship: str) -> bytes:
        """As last set; b"" before."""
        with self._reading():
            row = self._db.execute(
                "SELECT body FROM statistics WHERE relationship = ?", (relationship,)
            ).fetchone()
            return bytes(row["body"]) if row else b""

    def set_statistics(self, relationship: str, body: bytes) -> None:
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO statistics (relationship, body) VALUES (?, ?)", (relationship, body)
            )

    def _all_behind(self, relationship: str, why: str) -> None:
        with self._write() as db:
            followers = "(SELECT id FROM follower WHERE relationship = ?)"
            db.execute(f"DELETE FROM delivery WHERE follower IN {followers}", (relationship,))
            db.execute(
                "UPDATE follower SET stage = 'behind', base = '', why = ? WHERE relationship = ?"
                " AND stage IN ('level', 'joining')",
                (why, relationship),
            )

    def _set(self, relationship: str, **columns: object) -> None:
        names = ", ".join(f"{name} = ?" for name in columns)
        with self._write() as db:
            db.execute(f"UPDATE relationship SET {names} WHERE id = ?", (*columns.values(), relationship))

    def _enter(self, relationship: str, entry: Entry) -> Entry:
        cursor = self._db.execute(
            "INSERT INTO entry (relationship, kind, body) VALUES (?, ?, ?)",
            (relationship, entry.kind, _json(entry)),
        )
        entered = msgspec.structs.replace(entry, ordinal=cursor.lastrowid or 0)
        self._note_sizes(relationship, entered)
        self._db.execute(
            "INSERT INTO delivery (follower, ordinal, bytes, body) SELECT id, ?, ?, ? FROM follower"
            " WHERE relationship = ? AND stage IN ('level', 'joining')",
            (entered.ordinal, entered.stored, _json(entry), relationship),
        )
        return entered

    def _note_sizes(self, relationship: str, entry: Entry) -> None:
        self._db.execute("DELETE FROM queued WHERE ordinal = ?", (entry.ordinal,))
        self._db.executemany(
            "INSERT INTO queued (ordinal, disk, bytes, relationship) VALUES (?, ?, ?, ?)",
            [
                (entry.ordinal, disk.id, sum(log.size for log in disk.logs), relationship)
                for disk in entry.disks
                if disk.logs
            ],
        )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """For what keeps tables of its own in the books (followers.py)."""
        with self._write() as db:
            yield db

    @contextmanager
    def reading_db(self) -> Iterator[sqlite3.Connection]:
        """Likewise, to read only."""
        with self._reading():
            yield self._db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._db.in_transaction:
                yield self._db
                return
            with self._failures():
                if self._read is not None:
                    self._read.clear()
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:  # SQLite ends it by itself after some errors
                        self._db.execute("ROLLBACK")
                    raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock, self._failures():
            yield

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """SQLite's errors as ours."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise _unwritable(self.folder, str(error)) from error
        except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
            raise BooksDamaged(
                f"the agent's books are damaged: {error}",
                subject=str(self.folder / _FILE),
                tried="nothing: the file was left as it is, and no point in the store is touched",
                hint="move the file away and `standby vm protect` with --take-over: the disks are compared with the "
                "replica by hashes, and its points stay",
            ) from error


def find(books: Books, machine: str) -> Relationship:
    """The machine's relationship. Raises InvalidRequest if it is not protected here."""
    found = next((one for one in books.relationships() if one.machine == machine), None)
    if found is None:
        raise InvalidRequest(
            "it is not protected by this agent",
            subject=machine,
            tried=f"looking in {books.folder}",
            hint=f"`standby vm list --state {books.folder}` shows those that are",
        )
    return found


def _unwritable(folder: Path, cause: str) -> BooksUnwritable:
    return BooksUnwritable(
        f"the agent's books cannot be used: {cause}",
        subject=str(folder),
        tried="nothing was forgotten; changes of the machine go on being tracked",
        hint="make room on this volume and let this agent write there; it is tried again",
    )


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _entry(row: sqlite3.Row) -> Entry:
    return msgspec.structs.replace(msgspec.json.decode(row["body"], type=Entry), ordinal=row["ordinal"])


def _connect(uri: str) -> sqlite3.Connection:
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    db.row_factory = sqlite3.Row
    return db
