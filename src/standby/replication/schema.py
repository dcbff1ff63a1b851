"""The tables of the agent's books, and how older ones become them."""

from __future__ import annotations

import sqlite3
from typing import Final

from standby.errors import InvalidRequest

_STEPS: Final = (
    """
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
""",
    """
CREATE TABLE trouble (
  relationship TEXT NOT NULL REFERENCES relationship(id) ON DELETE CASCADE,
  side TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (relationship, side)) STRICT;
CREATE TABLE setting (name TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE statistics (
  relationship TEXT PRIMARY KEY REFERENCES relationship(id) ON DELETE CASCADE, body BLOB NOT NULL) STRICT;
CREATE TABLE queued (
  ordinal INTEGER NOT NULL REFERENCES entry(ordinal) ON DELETE CASCADE,
  disk TEXT NOT NULL, bytes INTEGER NOT NULL, PRIMARY KEY (ordinal, disk)) STRICT;
CREATE INDEX entry_of ON entry (relationship, ordinal);
INSERT INTO queued SELECT entry.ordinal, disk.value->>'id', SUM(log.value->>'size')
  FROM entry, json_each(entry.body, '$.disks') AS disk, json_each(disk.value, '$.logs') AS log
  GROUP BY entry.ordinal, disk.value->>'id';
ALTER TABLE relationship DROP COLUMN failures;
ALTER TABLE relationship DROP COLUMN first_failure;
ALTER TABLE relationship DROP COLUMN retry_at;
ALTER TABLE relationship DROP COLUMN error;
ALTER TABLE relationship ADD COLUMN connection TEXT NOT NULL DEFAULT '';
ALTER TABLE relationship ADD COLUMN excluded TEXT NOT NULL DEFAULT '[]';
ALTER TABLE relationship ADD COLUMN taking_over INTEGER NOT NULL DEFAULT 0;
ALTER TABLE relationship ADD COLUMN newest TEXT NOT NULL DEFAULT '';
ALTER TABLE relationship ADD COLUMN synced TEXT NOT NULL DEFAULT '';
ALTER TABLE relationship ADD COLUMN closing INTEGER NOT NULL DEFAULT 0;
ALTER TABLE relationship ADD COLUMN resync TEXT NOT NULL DEFAULT '';
ALTER TABLE relationship ADD COLUMN wrapped TEXT NOT NULL DEFAULT '[]';
ALTER TABLE relationship ADD COLUMN key_file TEXT NOT NULL DEFAULT '';
""",
    "ALTER TABLE disk ADD COLUMN round INTEGER NOT NULL DEFAULT 0;",
    """
CREATE TABLE made (
  relationship TEXT NOT NULL, seq INTEGER NOT NULL, at TEXT NOT NULL, consistency TEXT NOT NULL,
  stored INTEGER NOT NULL, PRIMARY KEY (relationship, seq)) STRICT;
CREATE INDEX made_at ON made (at, relationship, seq);
""",
    """
CREATE TABLE follower (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  relationship TEXT NOT NULL REFERENCES relationship(id) ON DELETE CASCADE,
  store TEXT NOT NULL, replica TEXT NOT NULL, stage TEXT NOT NULL, base TEXT NOT NULL DEFAULT '',
  committed TEXT NOT NULL DEFAULT '', newest TEXT NOT NULL DEFAULT '', synced TEXT NOT NULL DEFAULT '',
  why TEXT NOT NULL DEFAULT '', taking_over INTEGER NOT NULL DEFAULT 0, trouble TEXT NOT NULL DEFAULT '') STRICT;
CREATE TABLE delivery (
  follower INTEGER NOT NULL REFERENCES follower(id) ON DELETE CASCADE,
  ordinal INTEGER NOT NULL, bytes INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (follower, ordinal)) STRICT;
CREATE INDEX delivery_of ON delivery (ordinal);
ALTER TABLE queued RENAME TO queued_before;
CREATE TABLE queued (
  ordinal INTEGER NOT NULL, disk TEXT NOT NULL, bytes INTEGER NOT NULL, relationship TEXT NOT NULL,
  PRIMARY KEY (ordinal, disk)) STRICT;
INSERT INTO queued SELECT queued_before.ordinal, disk, bytes, relationship
  FROM queued_before JOIN entry ON entry.ordinal = queued_before.ordinal;
DROP TABLE queued_before;
CREATE INDEX queued_of ON queued (relationship);
CREATE TRIGGER entry_gone AFTER DELETE ON entry
  WHEN NOT EXISTS (SELECT 1 FROM delivery WHERE ordinal = OLD.ordinal)
  BEGIN DELETE FROM queued WHERE ordinal = OLD.ordinal; END;
CREATE TRIGGER delivery_gone AFTER DELETE ON delivery
  WHEN NOT EXISTS (SELECT 1 FROM delivery WHERE ordinal = OLD.ordinal)
  AND NOT EXISTS (SELECT 1 FROM entry WHERE ordinal = OLD.ordinal)
  BEGIN DELETE FROM queued WHERE ordinal = OLD.ordinal; END;
""",
)
"""Each brings the tables from the version of its place to the next (PRAGMA user_version)."""


def bring_up(db: sqlite3.Connection, name: str) -> None:
    """Make the tables what this standby uses. Raises InvalidRequest if a newer one made them."""
    version = _version(db)
    _refuse_newer(version, name)
    for number in range(version, len(_STEPS)):
        db.executescript(f"BEGIN IMMEDIATE; {_STEPS[number]}; PRAGMA user_version = {number + 1}; COMMIT;")


def check(db: sqlite3.Connection, name: str) -> None:
    """Raises InvalidRequest if the tables are not of this standby's version."""
    version = _version(db)
    _refuse_newer(version, name)
    if version < len(_STEPS):
        raise InvalidRequest(
            "the agent's books were made by an older standby",
            subject=name,
            hint="start the agent of this version once; it brings them up to date",
        )


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _refuse_newer(version: int, name: str) -> None:
    if version > len(_STEPS):
        raise InvalidRequest(
            f"the agent's books are of version {version}, this standby knows {len(_STEPS)}",
            subject=name,
            hint="use the newer standby that made them",
        )
