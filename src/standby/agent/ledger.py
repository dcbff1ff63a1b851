"""What an agent was ordered to do, kept until its vault has taken in how it ended: one SQLite file of its own.

Apart from the agent's books, so that whatever becomes of it, replication goes on.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import msgspec

from standby.errors import InvalidRequest, NeedsPerson, Recoverable
from standby.link.messages import Order, WorkReport

_FILE: Final = "link.sqlite"
_VERSION: Final = 1
_TABLES: Final = """
CREATE TABLE work (
  job TEXT PRIMARY KEY, lease INTEGER NOT NULL, body TEXT NOT NULL, stage TEXT NOT NULL,
  facts TEXT NOT NULL DEFAULT '{}', report TEXT NOT NULL DEFAULT '', untold INTEGER NOT NULL DEFAULT 1) STRICT;
"""


class LedgerUnwritable(Recoverable):
    """The ledger of orders cannot be written now; no order is begun that is not in it."""


class LedgerDamaged(NeedsPerson):
    """The ledger of orders is no longer what was written."""


class Stage(StrEnum):
    ACCEPTED = "accepted"
    """Durably, and not begun."""
    BEGUN = "begun"
    """It may have touched the world."""
    ENDED = "ended"


class Item(NamedTuple):
    """An order. facts: what was so before it was begun. report: of its end. untold: the vault is still to be told."""

    order: Order
    stage: Stage
    facts: Mapping[str, str]
    report: WorkReport | None
    untold: bool


class Ledger:
    """Thread-safe; each method is one durable transaction. Raises LedgerUnwritable, LedgerDamaged."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._lock = threading.Lock()
        with self._failures():
            self._db = sqlite3.connect(
                f"file:{quote(str(self._path))}", uri=True, isolation_level=None, check_same_thread=False
            )
            for pragma in ("journal_mode=WAL", "synchronous=FULL"):
                self._db.execute(f"PRAGMA {pragma}")
            version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
            if version == 0:
                self._db.executescript(
                    f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {_VERSION}; COMMIT;"
                )
        if version > _VERSION:
            raise InvalidRequest(
                f"the ledger of orders is of version {version}, this standby knows {_VERSION}",
                subject=str(self._path),
                hint="use the newer standby that made it",
            )
        self._path.chmod(0o600)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def accept(self, order: Order) -> None:
        self._write(
            "INSERT OR REPLACE INTO work (job, lease, body, stage) VALUES (?, ?, ?, ?)",
            (order.job, order.lease, msgspec.json.encode(order).decode(), Stage.ACCEPTED),
        )

    def renew(self, job: str, lease: int) -> None:
        """The vault gives it again under a newer lease, and is to be told under that."""
        self._write("UPDATE work SET lease = ?, untold = 1 WHERE job = ?", (lease, job))

    def begin(self, job: str, facts: Mapping[str, str]) -> None:
        self._write(
            "UPDATE work SET stage = ?, facts = ? WHERE job = ?",
            (Stage.BEGUN, msgspec.json.encode(dict(facts)).decode(), job),
        )

    def end(self, report: WorkReport) -> None:
        """Forgotten at once if nobody is to be told."""
        self._write(
            "UPDATE work SET stage = ?, report = ? WHERE job = ?",
            (Stage.ENDED, msgspec.json.encode(report).decode(), report.job),
        )
        self._write("DELETE FROM work WHERE job = ? AND untold = 0", (report.job,))

    def told(self, job: str) -> None:
        """Its reports end. What was begun stays until it has ended."""
        self._write("DELETE FROM work WHERE job = ? AND stage != ?", (job, Stage.BEGUN))
        self._write("UPDATE work SET untold = 0 WHERE job = ?", (job,))

    def items(self) -> list[Item]:
        """All, in the order in which they came."""
        with self._lock, self._failures():
            rows = self._db.execute(
                "SELECT body, lease, stage, facts, report, untold FROM work ORDER BY rowid"
            ).fetchall()
            return [_item(*row) for row in rows]

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._lock, self._failures():
            self._db.execute(statement, values)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise LedgerUnwritable(
                f"the ledger of orders cannot be used: {error}",
                subject=str(self._path),
                tried="no order was begun that is not in it; replication goes on",
                hint="make room on this volume and let the agent write there; it is tried again",
            ) from error
        except (sqlite3.DatabaseError, msgspec.DecodeError) as error:
            raise LedgerDamaged(
                f"the ledger of orders is damaged: {error}",
                subject=str(self._path),
                tried="nothing: the file was left as it is; replication goes on, orders are not taken",
                hint="look at the vault's running jobs of this host, stop the agent, move the file away",
            ) from error


def _item(body: str, lease: int, stage: str, facts: str, report: str, untold: int) -> Item:
    order = msgspec.structs.replace(msgspec.json.decode(body, type=Order), lease=lease)
    told = msgspec.json.decode(report, type=WorkReport) if report else None
    return Item(
        order=order,
        stage=Stage(stage),
        facts=msgspec.json.decode(facts, type=dict[str, str]),
        report=msgspec.structs.replace(told, lease=lease) if told else None,
        untold=bool(untold),
    )
