"""Disks that come, go, grow and are left out while their machine is protected."""

from __future__ import annotations

import pytest

from standby.replica.format import BLOCK
from standby.replica.journal import ReplicaLog
from standby.replication.diskset import DisksGone
from standby.replication.states import State
from tests.replication.site import due, go_on, noise, now, same_as, write

pytestmark = pytest.mark.slow

SIZE = 16 << 20


def attach(daemon, name):
    """Plug a raw disk into the running daemon and serve it to the test."""
    path = daemon.qmp.parent / f"{name}.img"
    with path.open("ab") as file:
        file.truncate(SIZE)
    daemon.control.command(
        "blockdev-add", driver="raw", node_name=name, file={"driver": "file", "filename": str(path)}
    )
    daemon.control.command(
        "block-export-add", type="nbd", id=f"client-{name}", node_name=name, name=name, writable=True
    )
    daemon.formats = {**daemon.formats, name: ("raw", "")}


def detach(daemon, name):
    with daemon.control.listening() as events:
        daemon.control.command("block-export-del", id=f"client-{name}", mode="hard")
        events.wait(lambda event: event["event"] == "BLOCK_EXPORT_DELETED", 10)
    daemon.control.command("blockdev-del", node_name=name)
    daemon.formats = {one: how for one, how in daemon.formats.items() if one != name}


def disks_of_points(rig):
    return [sorted(disk.id for disk in point.disks) for point in ReplicaLog.read(rig.store, "vm").points]


def sent_of(rig, disk, records):
    return sum(log.data for record in records for one in record.disks if one.id == disk for log in one.logs)


def test_a_disk_that_is_added_is_protected_and_older_points_stay(site):
    daemon = site.daemon()
    write(daemon, "raw", 0, noise(1 << 20))
    rig = site.rig(daemon)
    rig.protect()
    first = now(daemon)
    records = len(rig.seen.records)
    attach(daemon, "third")
    write(daemon, "third", 3 * BLOCK, noise(BLOCK, 5))
    same_as(rig, daemon)
    assert disks_of_points(rig)[0] == ["qcow", "raw"]
    assert disks_of_points(rig)[-1] == ["qcow", "raw", "third"]
    assert rig.images(ReplicaLog.read(rig.store, "vm").points[0].seq) == first
    assert any("was added" in str(error) for error in rig.seen.errors)
    assert 0 < sent_of(rig, "third", rig.seen.records) <= BLOCK
    assert sent_of(rig, "raw", rig.seen.records[records:]) == 0, "only the new disk is compared"


def test_a_disk_that_is_taken_away_leaves_the_points_that_have_it(site):
    daemon = site.daemon()
    attach(daemon, "third")
    write(daemon, "third", 0, noise(BLOCK, 3))
    rig = site.rig(daemon)
    rig.protect()
    before = now(daemon)
    detach(daemon, "third")
    write(daemon, "raw", 0, noise(BLOCK))
    same_as(rig, daemon)
    assert disks_of_points(rig)[-1] == ["qcow", "raw"]
    assert rig.images(ReplicaLog.read(rig.store, "vm").points[0].seq) == before
    assert rig.seen.scanned_bytes.keys() == {"qcow", "raw", "third"}
    assert rig.seen.scanned_bytes["raw"] == daemon_size(before, "raw"), "the others are not compared again"


def daemon_size(contents, disk):
    return len(contents[disk])


@pytest.mark.parametrize("points_between", [0, 2], ids=["at once", "after points without it"])
@pytest.mark.parametrize("store_away", [False, True])
def test_a_disk_that_comes_back_is_what_it_is(site, points_between, store_away):
    daemon = site.daemon()
    attach(daemon, "third")
    write(daemon, "third", 0, noise(4 * BLOCK, 3))
    rig = site.rig(daemon)
    rig.protect()
    if store_away:
        rig.target.let_go()
        hidden = site.folder / "hidden"
        (site.folder / "store").rename(hidden)
    write(daemon, "third", BLOCK, noise(BLOCK, 4))
    due(rig)
    rig.engine.step()
    detach(daemon, "third")
    for _ in range(3 + points_between if points_between else 2):
        due(rig)
        rig.engine.step()
    path = daemon.qmp.parent / "third.img"
    with path.open("r+b") as file:
        file.write(bytes(BLOCK))  # what the replica has there must not be taken for known
    attach(daemon, "third")
    due(rig)
    rig.engine.step()
    if store_away:
        hidden.rename(site.folder / "store")
        rig.engine.retry_now()
    same_as(rig, daemon)
    assert disks_of_points(rig)[-1] == ["qcow", "raw", "third"]


def test_all_disks_gone_is_for_a_person_and_nothing_is_forgotten(site):
    daemon = site.daemon(formats={"raw": ("raw", "")})
    write(daemon, "raw", 0, noise(BLOCK))
    rig = site.rig(daemon)
    rig.protect()
    detach(daemon, "raw")
    attach(daemon, "other")
    for _ in range(3):
        due(rig)
        rig.engine.step()
    trouble = rig.books.get(rig.id).capture
    assert (trouble.kind, trouble.retry_at) == (DisksGone.__name__, None)
    assert "standby vm retry vm" in trouble.error
    detach(daemon, "other")
    attach(daemon, "raw")
    rig.engine.retry_now()
    same_as(rig, daemon)


def test_a_disk_that_was_left_out_stays_out(site):
    daemon = site.daemon()
    attach(daemon, "third")
    rig = site.rig(daemon)
    rig.enable(excluded=["third"])
    rig.until(lambda: rig.state is State.PROTECTED)
    write(daemon, "third", 0, noise(BLOCK))
    go_on(rig, lambda: len(rig.seen.records) > 2)
    assert disks_of_points(rig)[-1] == ["qcow", "raw"]
    assert rig.seen.errors == []
