"""Further targets of a machine, as its agent's books keep them (decision 0012).

A relationship's own target comes first. Each further one, a follower, gets every entry that is entered while it is
level with the first, as a delivery of its own. One that is not level is behind: it is copied from the first
target's replica until it is (following.py).
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from standby import failpoints
from standby.errors import InvalidRequest
from standby.replication.books import Books
from standby.replication.entries import Entry
from standby.replication.relationship import Trouble
from standby.replication.states import State

_DELIVERED: Final = failpoints.declare("follow.noted")


class Stage(StrEnum):
    BEHIND = "behind"
    """It must be compared with the first target's replica; nothing is kept for it meanwhile."""

    JOINING = "joining"
    """What is captured from `base` on is kept for it; it is brought to `base` first."""

    LEVEL = "level"
    FENCED = "fenced"


class Follower(msgspec.Struct, frozen=True, kw_only=True):
    """base: nonce of the first target's record that a joining one is brought to. committed: nonce of its newest
    record. newest: the instant of its newest point. synced: when it was last committed to. why: why it is behind,
    a clause. queued: entries that wait for it. queued_bytes: of their logs. oldest: ordinal of the first, 0 if none.
    """

    id: int
    relationship: str
    store: str
    replica: str
    stage: Stage
    base: str
    committed: str
    newest: str
    synced: str
    why: str
    taking_over: bool
    trouble: Trouble | None
    queued: int = 0
    queued_bytes: int = 0
    oldest: int = 0


class Followers:
    """The followers in the books. Thread-safe; every method is one transaction."""

    def __init__(self, books: Books) -> None:
        self._books = books

    def of(self, relationship: str) -> list[Follower]:
        """In the order in which they were added."""
        with self._books.reading_db() as db:
            rows = db.execute(
                "SELECT follower.*, COUNT(ordinal) AS queued, COALESCE(SUM(bytes), 0) AS queued_bytes,"
                " COALESCE(MIN(ordinal), 0) AS oldest FROM follower LEFT JOIN delivery ON follower = follower.id"
                " WHERE relationship = ? GROUP BY follower.id ORDER BY follower.id",
                (relationship,),
            ).fetchall()
        return [_follower(dict(row)) for row in rows]

    def get(self, relationship: str, follower: int) -> Follower | None:
        """None if it was removed."""
        return next((one for one in self.of(relationship) if one.id == follower), None)

    def add(self, relationship: str, store: str, replica: str, *, take_over: bool) -> int:
        """A new one, behind. Its id. Raises InvalidRequest if the machine goes there already."""
        with self._books.transaction() as db:
            first = self._books.get(relationship)
            taken = [
                (first.store, first.replica),
                *((one.store, one.replica) for one in self.of(relationship)),
            ]
            if (store, replica) in taken:
                raise InvalidRequest(
                    f"it is replicated to {replica} in {store} already",
                    subject=first.machine,
                    hint=f"`standby vm targets list {first.machine}` shows how that stands",
                )
            cursor = db.execute(
                "INSERT INTO follower (relationship, store, replica, stage, why, taking_over)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (relationship, store, replica, Stage.BEHIND, "it was added", take_over),
            )
            return cursor.lastrowid or 0

    def remove(self, relationship: str, follower: int) -> list[Path]:
        """Forget it. The files that nothing names any more."""
        with self._books.transaction() as db:
            freed = self._exclusive(relationship, follower)
            db.execute("DELETE FROM follower WHERE id = ?", (follower,))
            return freed

    def next_delivery(self, follower: int) -> Entry | None:
        with self._books.reading_db() as db:
            row = db.execute(
                "SELECT ordinal, body FROM delivery WHERE follower = ? ORDER BY ordinal LIMIT 1", (follower,)
            ).fetchone()
        return _entry(row["ordinal"], row["body"]) if row else None

    def delivered(self, follower: Follower, entry: Entry, at: str) -> list[Path]:
        """The entry is committed there, at this time. The files that nothing names any more.

        Nothing happens if the follower has become another one meanwhile: its store's chain tells then.
        """
        with self._books.transaction() as db:
            now = self.get(follower.relationship, follower.id)
            if now is None or now.stage is not Stage.LEVEL or now.store != follower.store:
                return []
            db.execute(
                "DELETE FROM delivery WHERE follower = ? AND ordinal = ?", (follower.id, entry.ordinal)
            )
            newest = entry.at if entry.kind in ("point", "seal") else now.newest
            db.execute(
                "UPDATE follower SET committed = ?, newest = ?, synced = ? WHERE id = ?",
                (entry.nonce, newest, at, follower.id),
            )
            paths = [] if self._books.waits(entry.ordinal) else [Path(log.path) for log in entry.logs]
        _DELIVERED.reach()
        return paths

    def fall_behind(self, relationship: str, follower: int, why: str) -> list[Path]:
        """Give up what waits for it; it is compared with the first target's replica anew. The files freed."""
        with self._books.transaction() as db:
            freed = self._exclusive(relationship, follower)
            db.execute("DELETE FROM delivery WHERE follower = ?", (follower,))
            db.execute(
                "UPDATE follower SET stage = ?, why = ?, base = '' WHERE id = ?",
                (Stage.BEHIND, why, follower),
            )
            return freed

    def join(self, relationship: str, follower: int) -> str:
        """From here on all that is captured is kept for it, from the first target's newest record on. That
        record's nonce."""
        with self._books.transaction() as db:
            base = self._books.get(relationship).committed
            db.execute("DELETE FROM delivery WHERE follower = ?", (follower,))
            db.execute(
                "INSERT INTO delivery (follower, ordinal, bytes, body)"
                " SELECT ?, ordinal, COALESCE((SELECT SUM(bytes) FROM queued WHERE queued.ordinal = entry.ordinal),"
                " 0), body FROM entry WHERE relationship = ?",
                (follower, relationship),
            )
            db.execute(
                "UPDATE follower SET stage = ?, base = ? WHERE id = ?", (Stage.JOINING, base, follower)
            )
            return base

    def level(self, follower: int, nonce: str, newest: str, at: str) -> None:
        """It has what the first target had at its record `nonce`. newest: the instant of that, "" if no point."""
        with self._books.transaction() as db:
            db.execute(
                "UPDATE follower SET stage = ?, why = '', base = '', committed = ?, synced = ?,"
                " newest = CASE ? WHEN '' THEN newest ELSE ? END WHERE id = ?",
                (Stage.LEVEL, nonce, at, newest, newest, follower),
            )

    def set_taken_over(self, follower: int) -> None:
        with self._books.transaction() as db:
            db.execute("UPDATE follower SET taking_over = 0 WHERE id = ?", (follower,))

    def set_trouble(self, follower: int, trouble: Trouble | None, *, fenced: bool = False) -> None:
        body = msgspec.json.encode(trouble).decode() if trouble else ""
        with self._books.transaction() as db:
            db.execute("UPDATE follower SET trouble = ? WHERE id = ?", (body, follower))
            if fenced:
                db.execute("UPDATE follower SET stage = ? WHERE id = ?", (Stage.FENCED, follower))

    def clear_troubles(self, relationship: str) -> None:
        with self._books.transaction() as db:
            db.execute("UPDATE follower SET trouble = '' WHERE relationship = ?", (relationship,))

    def laggard(self, relationship: str) -> Follower | None:
        """The follower that keeps logs which no other target waits for any more, the oldest of them first."""
        oldest = self._books.queued(relationship).oldest
        first = oldest.ordinal if oldest else None
        followers = self.of(relationship)
        late = min((one for one in followers if one.oldest), key=lambda one: one.oldest, default=None)
        if late is None:
            return None
        others = [one.oldest or None for one in followers if one is not late and one.stage is Stage.LEVEL]
        return late if all(one is None or one > late.oldest for one in (first, *others)) else None

    def heir(self, relationship: str) -> Follower | None:
        """The level follower that could come first in place of a first target which keeps logs that no other
        waits for; None where nothing would be gained."""
        first = self._books.get(relationship)
        oldest = self._books.queued(relationship).oldest
        if oldest is None or first.closing or first.status.state not in (State.PROTECTED, State.DELTA):
            return None
        ahead = [
            one
            for one in self.of(relationship)
            if one.stage is Stage.LEVEL and (not one.oldest or one.oldest > oldest.ordinal)
        ]
        return max(ahead, key=lambda one: one.oldest or float("inf"), default=None)

    def promote(self, heir: Follower, why: str) -> list[Path]:
        """Let the follower come first, and the first target be behind. The files freed.

        What is known of the replica (C5) is right for both: each was sure to get the same.
        """
        with self._books.transaction() as db:
            was = self._books.get(heir.relationship)
            freed = [
                Path(log.path)
                for entry in self._books.queue(was.id)
                if not self._waits_elsewhere(entry.ordinal, -1)
                for log in entry.logs
            ]
            db.execute(
                "DELETE FROM entry WHERE relationship = ? AND ordinal NOT IN"
                " (SELECT ordinal FROM delivery WHERE follower = ?)",
                (was.id, heir.id),
            )
            db.execute("DELETE FROM delivery WHERE follower = ?", (heir.id,))
            db.execute(
                "UPDATE relationship SET store = ?, replica = ?, committed = ?, newest = ?, synced = ? WHERE id = ?",
                (heir.store, heir.replica, heir.committed, heir.newest, heir.synced, was.id),
            )
            db.execute("DELETE FROM trouble WHERE relationship = ? AND side = 'send'", (was.id,))
            trouble = msgspec.json.encode(was.send).decode() if was.send else ""
            db.execute(
                "UPDATE follower SET store = ?, replica = ?, committed = ?, newest = ?, synced = ?, stage = ?,"
                " why = ?, base = '', trouble = ? WHERE id = ?",
                (
                    was.store,
                    was.replica,
                    was.committed,
                    was.newest,
                    was.synced,
                    Stage.BEHIND,
                    why,
                    trouble,
                    heir.id,
                ),
            )
            return freed

    def _exclusive(self, relationship: str, follower: int) -> list[Path]:
        """Log files that only this follower waits for."""
        with self._books.reading_db() as db:
            rows = db.execute(
                "SELECT ordinal, body FROM delivery WHERE follower = ? AND ordinal NOT IN"
                " (SELECT ordinal FROM entry WHERE relationship = ?)",
                (follower, relationship),
            ).fetchall()
        return [
            Path(log.path)
            for row in rows
            if not self._waits_elsewhere(row["ordinal"], follower)
            for log in _entry(row["ordinal"], row["body"]).logs
        ]

    def _waits_elsewhere(self, ordinal: int, follower: int) -> bool:
        with self._books.reading_db() as db:
            found = db.execute(
                "SELECT 1 FROM delivery WHERE ordinal = ? AND follower != ? LIMIT 1", (ordinal, follower)
            ).fetchone()
        return found is not None


def _entry(ordinal: int, body: str) -> Entry:
    return msgspec.structs.replace(msgspec.json.decode(body, type=Entry), ordinal=ordinal)


def _follower(fields: dict[str, object]) -> Follower:
    trouble = fields.pop("trouble")
    return Follower(
        **{
            **fields,
            "stage": Stage(str(fields["stage"])),
            "taking_over": bool(fields["taking_over"]),
            "trouble": msgspec.json.decode(str(trouble), type=Trouble) if trouble else None,
        }  # type: ignore[arg-type]
    )
