"""The agent's own look at what it has just committed: a warning, from records alone, across restarts."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest

from standby.replica.documents import DiskState, LogReference, Record
from standby.replica.suspicion import COMPARED
from standby.replication import chronicle, statistics
from standby.replication.chronicle import Chronicle, Chronicler
from standby.replication.entries import Queue
from standby.replication.policy import Policy
from standby.replication.standing import suspicious
from tests.support.replicas import REPLICA, FixedClock

MIB = 1 << 20
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


class FakeRelationship:
    """Stands for a relationship: its id and its policy."""

    id = "r"
    policy = Policy()


class FakeBooks:
    """Stands for the agent's books: they keep what the chronicler writes, and have nothing queued."""

    kept = b""

    def get(self, _id):
        return FakeRelationship()

    def statistics(self, _id) -> bytes:
        return self.kept

    def set_statistics(self, _id, body: bytes) -> None:
        self.kept = body

    def queued(self, _id) -> Queue:
        return Queue(points=0, scans=0, bytes={}, first_bytes=0, oldest=None)


def record(seq: int, data: int, ratio: float, kind: str = "point") -> Record:
    log = LogReference(name=f"l{seq}", size=int(data * ratio), sha256="", root="", rows=1, data=data)
    disks = (DiskState(id="vda", size=1 << 40, logs=(log,)),)
    return Record(
        replica=REPLICA, seq=seq, epoch=1, kind=kind, nonce="", parent="", at=NOW.isoformat(), writer="", disks=disks
    )  # fmt: skip


@pytest.fixture
def books() -> FakeBooks:
    return FakeBooks()


def chronicler(books: FakeBooks) -> Chronicler:
    return Chronicler(books, "r", dict, FixedClock(NOW), UTC)


def read(books: FakeBooks) -> Chronicle:
    return chronicle.read(books, FakeRelationship(), NOW, UTC)


def test_a_warning_names_where_it_began_and_goes_when_points_are_usual_again(books):
    one = chronicler(books)
    for seq in range(2, 40):
        one.committed(FakeRelationship(), record(seq, MIB + seq * 5000, 0.3))
    one.committed(FakeRelationship(), record(40, 900 * MIB, 1.0, kind="scan"))
    one.keep()
    assert suspicious(read(books)) == ""
    again = chronicler(books)
    again.committed(FakeRelationship(), record(41, 90 * MIB, 1.0))
    again.keep()
    assert suspicious(read(books)).startswith("The newest point looks as if the disks were being encrypted")
    again.committed(FakeRelationship(), record(42, 90 * MIB, 1.0))
    again.keep()
    assert suspicious(read(books)).startswith("The newest 2 points look")
    assert "from point 41 on: " in suspicious(read(books))
    again.committed(FakeRelationship(), record(43, MIB, 0.3))
    again.keep()
    assert suspicious(read(books)) == ""


def test_no_more_is_kept_than_what_is_compared(books):
    one = chronicler(books)
    for seq in range(COMPARED + 50):
        one.committed(FakeRelationship(), record(seq, MIB, 0.3))
    one.keep()
    assert [change.seq for change in read(books).changes] == list(range(50, COMPARED + 50))


def test_a_chronicle_of_an_older_agent_has_no_changes_yet(books):
    history = statistics.begin(NOW, Policy().monitoring, UTC)
    body = msgspec.json.decode(msgspec.json.encode(Chronicle(history=history)))
    del body["changes"]
    books.kept = msgspec.json.encode(body)
    assert read(books).changes == ()
    assert suspicious(read(books)) == ""
