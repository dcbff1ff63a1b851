"""The agent's own files: unwritable, damaged, lost, or of another time. No change is skipped for it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from standby import failpoints
from standby.errors import InvalidRequest
from standby.hypervisor.qemu import QemuHypervisor
from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK
from standby.replica.journal import ReplicaLog
from standby.replication.books import Books, BooksDamaged, BooksUnwritable
from standby.replication.enable import Request, enable
from standby.replication.policy import Policy
from standby.replication.relationship import UNKNOWN
from standby.replication.source import QueueLost
from standby.replication.states import Event, State
from tests.hypervisor.processes import PAGE, SIZE
from tests.replication.site import (
    DISKS,
    again,
    complete,
    due,
    go_on,
    noise,
    same_as,
    stop,
    write,
)
from tests.support.faulty_store import FaultyStore

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("side", ["source", "target"])
def test_books_that_cannot_be_written(site, side):
    """SQLite is told to refuse writes: a real volume without room would stop the scratch space first."""
    daemon = site.daemon()
    rig = site.rig(daemon)
    rig.protect()
    write(daemon, "raw", 0, noise(2 * BLOCK))
    due(rig)
    if side == "target":
        rig.source.cycle()
    rig.books._db.execute("PRAGMA query_only = ON")
    for _ in range(3):
        due(rig)
        rig.engine.source_step() if side == "source" else rig.engine.target_step()
        rig.clock.advance(seconds=60 if side == "target" else 0)
    errors = rig.seen.errors
    assert errors
    assert all(isinstance(error, BooksUnwritable) for error in errors)
    assert str(rig.books.folder) in complete(errors[0])
    rig.books._db.execute("PRAGMA query_only = OFF")
    rig.clock.advance(seconds=60)
    same_as(rig, daemon)
    nonces = [record.nonce for record in ReplicaLog.read(rig.store, "vm").records]
    assert len(nonces) == len(set(nonces)), "an entry was committed twice"
    assert State.RESYNC_REQUIRED not in rig.seen.states


@pytest.mark.parametrize("damage", ["garbage", "page"])
def test_damaged_books_are_told_and_left_alone(site, damage):
    daemon = site.daemon()
    rig = site.rig(daemon)
    rig.protect()
    stop(rig)
    file = rig.books.folder / "agent.sqlite"
    for name in ("agent.sqlite-wal", "agent.sqlite-shm"):
        (rig.books.folder / name).unlink(missing_ok=True)
    data = bytearray(file.read_bytes())
    if damage == "garbage":
        data[:] = noise(len(data))
    else:
        data[100:] = noise(len(data) - 100)
    file.write_bytes(data)

    def opened():
        with closing(Books(rig.books.folder)) as books:
            books.relationships()

    def read():
        with closing(Books.reading(rig.books.folder)) as books:
            books.relationships()

    for attempt in (opened, read):
        with pytest.raises(BooksDamaged, match="damaged") as caught:
            attempt()
        assert str(file) in complete(caught.value)
        assert "--take-over" in caught.value.hint
    assert file.read_bytes() == data


def test_a_replica_whose_books_are_gone_is_continued_by_hashes_on_request(site):
    daemon = site.daemon()
    write(daemon, "raw", 0, noise(4 << 20))
    rig = site.rig(daemon)
    rig.protect()
    points = [(point.seq, point.nonce) for point in ReplicaLog.read(rig.store, "vm").points]
    stop(rig)
    shutil.rmtree(rig.books.folder)
    write(daemon, "raw", 5 * BLOCK, noise(PAGE, 2))
    anew = site.rig(daemon, rig.store, clock=rig.clock)
    with pytest.raises(InvalidRequest, match="is taken") as caught:
        anew.enable()
    assert "--take-over" in caught.value.hint
    anew.enable(take_over=True)
    same_as(anew, daemon)
    sent = sum(log.data for one in anew.seen.records for disk in one.disks for log in disk.logs)
    assert 0 < sent <= 2 * BLOCK, "only what differs"
    left = [(point.seq, point.nonce) for point in ReplicaLog.read(rig.store, "vm").points]
    assert left[: len(points)] == points


def test_a_replica_of_another_machine_is_not_taken_over(site):
    daemon = site.daemon()
    rig = site.rig(daemon)
    rig.protect()
    wanted = Request("other", "vm", Policy(frequency=1), spool=str(rig.spool), take_over=True)
    other = QemuHypervisor({"other": site.daemon("two").machine()})
    with closing(Books(site.folder / "others")) as books, pytest.raises(InvalidRequest, match="machine vm"):
        enable(wanted, books, other, rig.store, "host-b", rig.clock)
    go_on(rig, lambda: len(rig.seen.records) > 2)


# The agent's own files, changed while it is down.


def known_files(rig):
    return sorted((rig.books.folder / "known" / rig.id).iterdir())


def cut_short(path, share):
    os.truncate(path, int(path.stat().st_size * share) // 16 * 16)


@pytest.mark.parametrize("loss", ["deleted", "empty", "half", "older", "newer"])
def test_known_hashes_that_are_not_of_the_books_time_are_filled_again(site, loss):
    """A block goes back to what a wrong table says the replica has: it must be sent all the same."""
    daemon = site.daemon()
    rig = site.rig(daemon)
    rig.protect()
    for seed in (1, 2):
        write(daemon, "raw", 50 * BLOCK, noise(BLOCK, seed))
        write(daemon, "qcow", 50 * BLOCK, noise(BLOCK, seed))
        if seed == 2 and loss == "newer":
            stop(rig)
            shutil.copy(rig.books.folder / "agent.sqlite", site.folder / "older.sqlite")
            rig = again(site, rig, daemon)
            rig.drain()
            rig.source.cycle()  # entered and learned, never committed
        else:
            rig.point()
        if seed == 1:
            folder = rig.books.folder / "known"
            shutil.copytree(folder, site.folder / "older")
    stop(rig)
    for path in known_files(rig):
        if loss == "deleted":
            path.unlink()
        elif loss == "older":
            shutil.copy(site.folder / "older" / rig.id / path.name, path)
        elif loss != "newer":
            cut_short(path, {"empty": 0, "half": 0.5}[loss])
    if loss == "newer":
        for name in ("agent.sqlite-wal", "agent.sqlite-shm"):
            (rig.books.folder / name).unlink(missing_ok=True)
        shutil.copy(site.folder / "older.sqlite", rig.books.folder / "agent.sqlite")
    content = {"older": noise(BLOCK, 1), "newer": noise(BLOCK, 2)}.get(loss, bytes(BLOCK))
    for disk in DISKS:
        write(daemon, disk, 50 * BLOCK, content)
    rig = again(site, rig, daemon)
    same_as(rig, daemon)


def test_a_disk_that_learned_more_than_another_is_not_taken_back(site):
    daemon = site.daemon()
    store = FaultyStore(DirectoryStore(site.folder / "store", create=True))
    rig = site.rig(daemon, store)
    rig.protect()
    write(daemon, "raw", 0, noise(BLOCK, 1))
    write(daemon, "qcow", 0, noise(BLOCK, 1))
    rig.source.cycle()
    write(daemon, "raw", 0, noise(BLOCK, 2))
    rig.source.cycle()
    assert len(rig.books.queue(rig.id)) == 2
    stop(rig)
    next(path for path in known_files(rig) if path.name.startswith("qcow")).unlink()
    write(daemon, "raw", 0, noise(BLOCK, 1))
    rig = again(site, rig, daemon)
    same_as(rig, daemon)


def test_an_entry_that_is_committed_before_it_was_learned(site):
    daemon = site.daemon()
    rig = site.rig(daemon)
    write(daemon, "raw", 0, noise(BLOCK, 1))
    rig.protect()
    rig.drain()
    go_on(rig, lambda: rig.source.ready)
    write(daemon, "raw", 0, noise(BLOCK, 2))
    failpoints.arm("cycle.entered=raise")
    with pytest.raises(failpoints.FailpointHit):
        rig.source.cycle()
    failpoints.arm("")
    rig.target.ship(rig.books.queue(rig.id)[0])
    assert rig.books.get(rig.id).disk("raw").learned == UNKNOWN
    write(daemon, "raw", 0, noise(BLOCK, 1))
    same_as(rig, daemon)
    assert State.RESYNC_REQUIRED not in rig.seen.states


def test_a_queued_log_that_is_gone_is_told_and_the_disks_are_compared(site):
    daemon = site.daemon()
    rig = site.rig(daemon)
    rig.protect()
    write(daemon, "raw", 0, noise(BLOCK))
    rig.source.cycle()
    stop(rig)
    gone = next(rig.spool.iterdir())
    gone.unlink()
    rig = again(site, rig, daemon)
    same_as(rig, daemon)
    lost = next(error for error in rig.seen.errors if isinstance(error, QueueLost))
    assert str(gone) in complete(lost)
    assert State.RESYNCHRONIZING in rig.seen.states


@pytest.mark.parametrize("committed", [True, False], ids=["committed since", "queued since"])
def test_books_of_an_older_backup_are_noticed(site, committed):
    daemon = site.daemon()
    rig = site.rig(daemon)
    write(daemon, "raw", 0, noise(1 << 20))
    rig.protect()
    stop(rig)
    shutil.copytree(rig.books.folder, site.folder / "backup")
    rig = again(site, rig, daemon)
    rig.drain()
    for seed in (1, 2):
        write(daemon, "raw", 20 * BLOCK, noise(BLOCK, seed))
        if committed:
            rig.point()
        else:
            rig.source.cycle()
    points = [point.nonce for point in ReplicaLog.read(rig.store, "vm").points]
    stop(rig)
    shutil.rmtree(rig.books.folder)
    shutil.copytree(site.folder / "backup", rig.books.folder)
    # Back to what the older books believe the replica has.
    write(daemon, "raw", 20 * BLOCK, bytes(BLOCK))
    rig = again(site, rig, daemon)
    same_as(rig, daemon)
    assert State.RESYNCHRONIZING in rig.seen.states
    log = ReplicaLog.read(rig.store, "vm")
    assert [point.nonce for point in log.points][: len(points)] == points
    sent = sum(log.data for record in rig.seen.records for disk in record.disks for log in disk.logs)
    assert sent <= 2 * BLOCK, "no full copy"


# A kill between what the books say of scans and the state.


def test_a_scan_that_the_state_does_not_know_of_yet_is_made(site):
    daemon = site.daemon()
    rig = site.rig(daemon)
    rig.protect()
    rig.books.require_scan(rig.id, {"raw": "asked"})
    stop(rig)
    rig = again(site, rig, daemon)
    same_as(rig, daemon)
    assert rig.seen.scanned_bytes == {"raw": SIZE}


def test_a_first_scan_that_had_ended_before_the_kill_or_pause_is_closed(site):
    daemon = site.daemon()
    rig = site.rig(daemon)
    rig.enable()
    go_on(rig, lambda: rig.source.ready)
    for disk in DISKS:
        rig.source.scan(disk)
    assert rig.state is State.INITIAL_REPLICATION
    rig.engine.pause()
    rig.engine._apply(Event.RESUMED)
    same_as(rig, daemon)
    with closing(sqlite3.connect(rig.books.folder / "agent.sqlite")) as db:
        assert db.execute("SELECT state FROM relationship").fetchone() == ("protected",)
