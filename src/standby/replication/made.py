"""Points that were committed and that nobody was told of yet: a table of the agent's books.

A row is written in the transaction that lets go of what was committed, so neither a kill nor a vault that was away
for days loses one.
"""

from __future__ import annotations

import sqlite3
from typing import Final, NamedTuple

MOST: Final = 20_000
"""Of one relationship, the newest: five hours of points every second, a week of one every 30 seconds. What a vault that
was away for longer misses is in the store."""

_LOOKED_EVERY: Final = 1_000
"""Points after which those beyond MOST are let go."""


class Made(NamedTuple):
    """A committed point. stored: bytes of its logs."""

    relationship: str
    seq: int
    at: str
    consistency: str
    stored: int


def note(db: sqlite3.Connection, point: Made) -> None:
    db.execute(
        "INSERT OR REPLACE INTO made (relationship, seq, at, consistency, stored) VALUES (?, ?, ?, ?, ?)",
        point,
    )
    if point.seq % _LOOKED_EVERY == 0:
        db.execute(
            "DELETE FROM made WHERE relationship = ? AND seq <= ?", (point.relationship, point.seq - MOST)
        )


def oldest(db: sqlite3.Connection, most: int) -> list[Made]:
    """Those to be told next, the oldest first."""
    rows = db.execute(
        "SELECT relationship, seq, at, consistency, stored FROM made ORDER BY at, relationship, seq LIMIT ?",
        (most,),
    ).fetchall()
    return [Made(*row) for row in rows]


def told(db: sqlite3.Connection, points: list[Made]) -> None:
    db.executemany(
        "DELETE FROM made WHERE relationship = ? AND seq = ?", [(one.relationship, one.seq) for one in points]
    )
