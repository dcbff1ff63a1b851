"""The limits of what waits for the store: held where there is little room, dropped where there is too little."""

from __future__ import annotations

import os
from datetime import UTC

import pytest

from standby.objects.directory import DirectoryStore
from standby.replica.format import BLOCK
from standby.replica.journal import ReplicaLog
from standby.replication import chronicle
from standby.replication.decide import SourceAction
from standby.replication.policy import Policy
from standby.replication.resync import Reason
from standby.replication.standing import health_of
from standby.replication.states import State
from tests.hypervisor.processes import PAGE, SIZE
from tests.replication.site import due, noise, now, same_as, write
from tests.support.faulty_store import Call, Fault, FaultyStore, refused

pytestmark = pytest.mark.slow

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting file systems needs root")

MIB = 1 << 20


def away(store):
    for verb in ("put_file", "put_if_absent", "get_if_changed"):
        store.add(Fault(verb, refused(), times=None))


def told(rig):
    """The reasons of the machine's health, as its books tell them to another process."""
    relationship = rig.books.get(rig.id)
    at = rig.clock.now()
    found = chronicle.read(rig.books, relationship, at, UTC)
    health = health_of(relationship, rig.books.queued(rig.id), found, at, UTC, agent=True)
    return " ".join(reason.text for reason in health.reasons)


def kinds(rig):
    return [record.kind for record in rig.seen.records]


def test_at_the_backlog_share_points_are_missed_and_nothing_is_lost(site):
    daemon = site.daemon()
    store = FaultyStore(DirectoryStore(site.folder / "store", create=True))
    rig = site.rig(daemon, store)
    rig.protect()
    rig.books.set_policy(rig.id, Policy(frequency=1, reserve=0, backlog_percent=25))
    away(store)
    contents, actions = [], []
    for number in range(6):
        write(daemon, "raw", number * 6 * BLOCK, noise(6 * BLOCK, number))
        write(daemon, "qcow", number * BLOCK, noise(PAGE, number))
        due(rig)
        actions.append(rig.engine.source_step())
        rig.engine.target_step()
        if actions[-1] is SourceAction.CYCLE:
            contents.append(now(daemon))
    # Three logs of 384 KiB are the first to reach 25 % of 4 MiB.
    assert actions == [SourceAction.CYCLE] * 3 + [SourceAction.MISS] * 3
    assert rig.engine.source_step() is SourceAction.WAIT, (
        "a missed one is not made up for before the next is due"
    )
    assert SIZE // 4 <= rig.books.queued(rig.id).bytes["raw"] < SIZE // 4 + 7 * BLOCK
    waiting = [entry.nonce for entry in rig.books.queue(rig.id)]
    rig.seen.records.clear()
    store.heal()
    rig.engine.retry_now()
    rig.drain()
    log = ReplicaLog.read(store, "vm")
    found = {point.nonce: point.seq for point in log.points}
    assert [record.nonce for record in rig.seen.records][:3] == waiting
    assert [rig.images(found[nonce]) for nonce in waiting] == contents
    same_as(rig, daemon)
    assert set(kinds(rig)) == {"point"}
    assert State.RESYNC_REQUIRED not in rig.seen.states


@pytest.fixture
def crowded(site):
    """A disk `third` on a small volume, its logs beside it, 3 MiB of which wait; `raw` is elsewhere, and so are its.

    (rig, daemon, store, fill): `fill` leaves so many MiB of that volume. 4 MiB must stay free.
    """
    volume = site.tmpfs("small", "size=20m")
    daemon = site.daemon(formats={"raw": ("raw", "")})
    path = volume / "third.img"
    path.touch()
    os.truncate(path, SIZE)
    file = {"driver": "file", "filename": str(path)}
    daemon.control.command("blockdev-add", driver="raw", node_name="third", file=file)
    daemon.control.command(
        "block-export-add", type="nbd", id="client-third", node_name="third", name="third", writable=True
    )
    daemon.formats = {**daemon.formats, "third": ("raw", "")}
    store = FaultyStore(DirectoryStore(site.folder / "store", create=True))
    rig = site.rig(daemon, store)
    rig.enable()
    with rig.books._write() as db:
        db.execute("UPDATE relationship SET spool = ''")
    rig.until(lambda: rig.state is State.PROTECTED)
    rig.books.set_policy(rig.id, Policy(frequency=1, reserve=4 * MIB, backlog_percent=100))
    away(store)
    write(daemon, "third", 0, noise(3 * MIB, 1))
    write(daemon, "raw", 0, noise(2 * MIB, 2))
    due(rig)
    rig.until(lambda: rig.books.queued(rig.id).length == 1)

    def fill(left):
        free = os.statvfs(volume).f_bavail * os.statvfs(volume).f_frsize
        filler = volume / "filler"
        have = filler.stat().st_size if filler.exists() else 0
        filler.write_bytes(bytes(have + free - left * MIB))
        if left == 0:
            filler.unlink()

    rig.seen.scanned_bytes.clear()
    rig.seen.records.clear()
    return rig, daemon, store, fill


def healed(rig, daemon, store, points):
    """The store is back: the other disk's log is sent as it was, only the one disk is read, points stay."""
    dropped = rig.books.queue(rig.id)
    assert [entry.kind for entry in dropped] == ["scan"]
    assert [disk.id for disk in dropped[0].disks if disk.logs] == ["raw"]
    assert {disk.id: disk.scan for disk in rig.books.get(rig.id).disks} == {
        "raw": "",
        "third": Reason.BACKLOG,
    }
    store.heal()
    rig.engine.retry_now()
    same_as(rig, daemon)
    assert rig.seen.scanned_bytes == {"third": SIZE}
    assert rig.seen.records[0].nonce == dropped[0].nonce
    assert rig.seen.records[0].kind == "scan"
    left = [(point.seq, point.nonce) for point in ReplicaLog.read(store, "vm").points]
    assert left[: len(points)] == points


@ROOT
def test_near_the_reserve_nothing_more_is_written_and_below_it_logs_give_way(crowded):
    rig, daemon, store, fill = crowded
    points = [(point.seq, point.nonce) for point in ReplicaLog.read(store.inner, "vm").points]
    before = now(daemon)
    fill(6)
    due(rig)
    assert rig.engine.source_step() is SourceAction.MISS
    assert rig.books.queued(rig.id).points == 1
    assert "a new log needs 8.0 MiB: no point is made until there is room" in told(rig), (
        "why it is missed is told at once, though nothing was sent or captured"
    )
    fill(3)
    assert rig.engine.source_step() is SourceAction.MAKE_ROOM
    assert rig.state is State.RESYNC_REQUIRED
    assert now(daemon) == before
    fill(12)
    healed(rig, daemon, store, points)
    rig.engine.close()
    assert "a new log needs" not in told(rig)


@ROOT
def test_above_the_reserve_again_all_that_waited_is_sent_and_nothing_is_compared(crowded):
    rig, daemon, store, fill = crowded
    fill(6)
    for _ in range(3):
        due(rig)
        assert rig.engine.source_step() is SourceAction.MISS
    fill(12)
    store.heal()
    rig.engine.retry_now()
    same_as(rig, daemon)
    assert rig.seen.scanned_bytes == {}


@ROOT
def test_logs_give_way_while_paused_too(crowded):
    rig, daemon, store, fill = crowded
    points = [(point.seq, point.nonce) for point in ReplicaLog.read(store.inner, "vm").points]
    rig.engine.pause()
    fill(3)
    assert rig.engine.source_step() is SourceAction.MAKE_ROOM
    assert rig.engine.source_step() is SourceAction.WAIT
    assert rig.state is State.PAUSED
    fill(12)
    rig.engine.resume()
    assert rig.state is State.RESYNC_REQUIRED
    healed(rig, daemon, store, points)


@ROOT
def test_room_that_dropping_would_not_bring_back_costs_no_logs(crowded):
    rig, daemon, store, fill = crowded
    points = rig.books.queued(rig.id).points
    fill(1)  # and 3 MiB of logs: below the reserve with them or without
    rig.books.set_policy(rig.id, Policy(frequency=1, reserve=5 * MIB, backlog_percent=100))
    for _ in range(3):
        due(rig)
        assert rig.engine.source_step() is SourceAction.MISS
    assert rig.books.queued(rig.id).points == points
    fill(12)
    store.heal()
    rig.engine.retry_now()
    same_as(rig, daemon)
    assert rig.seen.scanned_bytes == {}


def test_logs_that_give_way_while_they_are_being_sent(site):
    """What is on its way when the room runs out is neither waited for nor left to a person."""
    daemon = site.daemon()
    store = FaultyStore(DirectoryStore(site.folder / "store", create=True))
    rig = site.rig(daemon, store)
    rig.protect()
    write(daemon, "qcow", 0, noise(BLOCK, 1))
    write(daemon, "raw", 0, noise(BLOCK, 2))
    due(rig)
    assert rig.engine.source_step() is SourceAction.CYCLE
    entry = rig.books.queue(rig.id)[0]
    assert [disk.id for disk in entry.disks if disk.logs] == ["qcow", "raw"]
    # While the first log is uploaded, the other's is dropped, as the capturing side does.
    store.add(Fault("put_file", Call(lambda: rig.source.drop(["raw"], Reason.BACKLOG))))
    rig.engine.target_step()
    assert rig.books.get(rig.id).send is None, "nothing for a person, and no wait"
    rig.seen.scanned_bytes.clear()
    same_as(rig, daemon)
    assert rig.seen.scanned_bytes == {"raw": SIZE}
    assert store.unused() == []
