"""Every reason for a resynchronization, reached by its real cause: only the disk concerned is read, points stay."""

from __future__ import annotations

import shutil
import signal
import struct

import pytest
from ulid import ULID

from standby.clock import SystemClock
from standby.objects.directory import DirectoryStore
from standby.replica import writer as replica_writer
from standby.replica.format import BLOCK
from standby.replica.journal import ReplicaLog
from standby.replication import source
from standby.replication.decide import SourceAction
from standby.replication.hours import Hours
from standby.replication.policy import Policy
from standby.replication.resync import Reason
from standby.replication.states import State
from standby.replication.window import ResyncWindow, Start
from tests.hypervisor.processes import PAGE, SIZE
from tests.replication.site import again, due, go_on, noise, now, run, same_as, stop, write
from tests.support.faulty_store import Fault, FaultyStore, refused

pytestmark = pytest.mark.slow

DISKS = {"qcow": ("qcow2", ""), "other": ("qcow2", ""), "raw": ("raw", "")}
QCOW2_AUTOCLEAR = 88
"""Byte offset of the header's autoclear features (docs/interop/qcow2.txt); bit 0: the bitmaps are consistent."""


@pytest.fixture
def machine(site):
    """A protected machine with two points behind it: (rig, daemon)."""
    daemon = site.daemon(formats=DISKS)
    for number, disk in enumerate(DISKS):
        write(daemon, disk, 0, noise(SIZE // 2, number))
    rig = site.rig(daemon)
    rig.protect()
    write(daemon, "qcow", BLOCK, noise(PAGE, 7))
    rig.point()
    return rig, daemon


def off(site, rig, daemon, meanwhile=lambda folder: None, how=signal.SIGTERM):
    """The machine is off; meanwhile something happens to its images; it is on again, and so is the agent."""
    stop(rig)
    daemon.stop(how)
    meanwhile(site.folder / "host")
    daemon = site.daemon(formats=DISKS)
    return again(site, rig, daemon), daemon


def reasons(rig):
    return {disk.id: disk.scan for disk in rig.books.get(rig.id).disks if disk.scan}


def compared(rig, daemon, expected, most=8 * BLOCK):
    """The disks are compared for these reasons and no other disk is read; the replica is the machine, points stay."""
    before = [(point.seq, point.nonce) for point in ReplicaLog.read(rig.store, "vm").points]
    rig.seen.scanned_bytes.clear()
    rig.seen.records.clear()
    go_on(rig, lambda: rig.source.ready or rig.state is not State.PROTECTED)
    assert reasons(rig) == {disk: reason.value for disk, reason in expected.items()}
    same_as(rig, daemon)
    sizes = {disk.id: disk.size for disk in rig.books.get(rig.id).disks}
    assert rig.seen.scanned_bytes == {disk: sizes[disk] for disk in expected}
    sent = sum(log.data for record in rig.seen.records for disk in record.disks for log in disk.logs)
    assert sent <= most, "no silent full copy"
    left = [(point.seq, point.nonce) for point in ReplicaLog.read(rig.store, "vm").points]
    assert left[: len(before)] == before


def test_stopped_gracefully_only_disks_without_lasting_bitmaps_are_compared(site, machine):
    rig, daemon = off(site, *machine)
    compared(rig, daemon, {"raw": Reason.TRACKING_LOST}, most=0)


def test_the_host_crashes(site, machine):
    rig, daemon = off(site, *machine, how=signal.SIGKILL)
    found = {"qcow": Reason.HOST_CRASH, "other": Reason.HOST_CRASH, "raw": Reason.TRACKING_LOST}
    # What is new in the killed process may be unknown to the image.
    go_on(rig, lambda: rig.source.ready or rig.state is not State.PROTECTED)
    told = reasons(rig)
    assert told.keys() == found.keys()
    assert told["raw"] == Reason.TRACKING_LOST
    assert {told["qcow"], told["other"]} <= {Reason.HOST_CRASH, Reason.TRACKING_LOST}
    compared(rig, daemon, {disk: Reason(why) for disk, why in told.items()})


def test_the_host_crashes_with_bitmaps_of_an_earlier_start(site, machine):
    rig, daemon = off(site, *machine)
    same_as(rig, daemon)
    rig, daemon = off(site, rig, daemon)
    rig, daemon = off(site, rig, daemon, how=signal.SIGKILL)
    go_on(rig, lambda: rig.source.ready or rig.state is not State.PROTECTED)
    assert reasons(rig)["other"] == Reason.HOST_CRASH
    same_as(rig, daemon)


def io(image, offset, pattern, driver="qcow2"):
    run("qemu-io", "-f", driver, "-c", f"write -P {pattern} {offset} {PAGE}", image)


def test_a_disk_changed_by_qemus_tools_while_off_tells_it_itself(site, machine):
    rig, daemon = off(site, *machine, meanwhile=lambda folder: io(folder / "qcow.img", 3 * BLOCK, 9))
    compared(rig, daemon, {"raw": Reason.TRACKING_LOST})


def test_a_disk_changed_while_off_by_a_program_that_knows_no_bitmaps(site, machine):
    def change(folder):
        io(folder / "qcow.img", 3 * BLOCK, 9)
        with (folder / "qcow.img").open("r+b") as image:
            image.seek(QCOW2_AUTOCLEAR)
            features = struct.unpack(">Q", image.read(8))[0]
            assert features & 1
            image.seek(QCOW2_AUTOCLEAR)
            image.write(struct.pack(">Q", features & ~1))

    rig, daemon = off(site, *machine, meanwhile=change)
    compared(rig, daemon, {"qcow": Reason.TRACKING_LOST, "raw": Reason.TRACKING_LOST})


def test_a_disk_changed_while_off_without_bitmaps(site, machine):
    rig, daemon = off(site, *machine, meanwhile=lambda folder: io(folder / "raw.img", 3 * BLOCK, 9, "raw"))
    compared(rig, daemon, {"raw": Reason.TRACKING_LOST})


def test_a_disk_is_resized(site, machine):
    def grow(folder):
        run("qemu-img", "resize", "-q", "-f", "qcow2", folder / "qcow.img", SIZE + 3 * BLOCK)

    rig, daemon = off(site, *machine, meanwhile=grow)
    compared(rig, daemon, {"qcow": Reason.RESIZED, "raw": Reason.TRACKING_LOST})


def test_an_image_is_put_back(site, machine):
    """Its bitmaps came back with it, and would say that nothing was written."""
    rig, daemon = machine
    kept = site.folder / "kept.img"
    rig, daemon = off(site, rig, daemon, lambda folder: shutil.copy(folder / "qcow.img", kept))
    write(daemon, "qcow", 5 * BLOCK, noise(2 * BLOCK, 11))
    same_as(rig, daemon)
    old = now(daemon)["qcow"]
    rig, daemon = off(site, rig, daemon, lambda folder: shutil.copy(kept, folder / "qcow.img"))
    assert now(daemon)["qcow"] != old
    compared(rig, daemon, {"qcow": Reason.REVERTED, "raw": Reason.TRACKING_LOST})


def test_an_image_put_back_that_had_no_point_since_is_still_told_by_its_bitmaps(site, machine):
    rig, daemon = machine
    kept = site.folder / "kept.img"
    write(daemon, "qcow", 5 * BLOCK, noise(PAGE, 11))
    stop(rig)
    daemon.stop()
    shutil.copy(site.folder / "host" / "qcow.img", kept)
    daemon = site.daemon(formats=DISKS)
    write(daemon, "qcow", 6 * BLOCK, noise(PAGE, 12))
    daemon.stop()
    shutil.copy(kept, site.folder / "host" / "qcow.img")
    daemon = site.daemon(formats=DISKS)
    rig = again(site, rig, daemon)
    compared(rig, daemon, {"raw": Reason.TRACKING_LOST})


def test_a_disk_that_went_back_to_an_internal_snapshot_is_compared(site, machine):
    """No bitmap is in an image that has one: QEMU could not go back to it (decision 0016)."""

    def revert(folder):
        run("qemu-img", "snapshot", "-a", "before", folder / "qcow.img")

    rig, daemon = off(
        site, *machine, lambda folder: run("qemu-img", "snapshot", "-c", "before", folder / "qcow.img")
    )
    write(daemon, "qcow", 5 * BLOCK, noise(BLOCK, 11))
    same_as(rig, daemon)
    rig, daemon = off(site, rig, daemon, revert)
    compared(rig, daemon, {"qcow": Reason.TRACKING_LOST, "raw": Reason.TRACKING_LOST})


def queued(site, rig, daemon):
    """Two points wait, as the store is away: its FaultyStore."""
    store = rig.store = FaultyStore(DirectoryStore(site.folder / "store"))
    stop(rig)
    rig = again(site, rig, daemon)
    for verb in ("put_file", "put_if_absent", "get", "swap", "list", "put"):
        store.add(Fault(verb, refused(), times=None))
    for number in (1, 2):
        write(daemon, "raw", number * BLOCK, noise(PAGE, number))
        write(daemon, "qcow", number * BLOCK, noise(PAGE, number + 10))
        go_on(rig, lambda number=number: len(rig.books.queue(rig.id)) == number)
    return rig, store


@pytest.mark.parametrize("how", ["lost", "cut short", "corrupt"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_queued_log_is_lost_or_damaged(site, machine, how, restarted):
    rig, store = queued(site, *machine)
    daemon = machine[1]
    entry = rig.books.queue(rig.id)[1]
    path = next(log.path for disk in entry.disks if disk.id == "raw" for log in disk.logs)
    if how == "lost":
        run("rm", path)
    else:
        with open(path, "r+b") as file:  # noqa: PTH123 - a name of the books
            if how == "cut short":
                file.truncate(100)
            else:
                file.seek(200)
                file.write(b"\xff\x00\xff")
    if restarted:
        stop(rig)
        rig = again(site, rig, daemon)
    points = len(ReplicaLog.read(DirectoryStore(site.folder / "store"), "vm").points)
    store.heal()
    rig.engine.retry_now()
    go_on(rig, lambda: rig.state is not State.PROTECTED)
    assert reasons(rig) == {"raw": Reason.LOG_LOST}
    rig.seen.scanned_bytes.clear()
    same_as(rig, daemon)
    assert rig.seen.scanned_bytes == {"raw": SIZE}
    # The point before the damage is kept, if the agent did not look before it was sent.
    assert len(ReplicaLog.read(rig.store, "vm").points) > points


def test_the_replica_is_not_what_the_agent_left_there(site, machine):
    rig, daemon = machine
    stop(rig)
    attached = replica_writer.attach(
        rig.store,
        "vm",
        owner=f"agent@host-a, {rig.id}",
        clock=SystemClock(),
        new_id=lambda: str(ULID()),
    )
    newest = ReplicaLog.read(rig.store, "vm").point()
    attached.commit(
        replica_writer.Draft(
            kind="point",
            nonce=str(ULID()),
            at=newest.at,
            disks=tuple(newest.disks),
            consistency=newest.consistency,
            note="",
            machine=newest.machine,
        )
    )
    rig = again(site, rig, daemon)
    compared(rig, daemon, dict.fromkeys(DISKS, Reason.DIVERGED), most=0)


def test_an_operator_asks(machine):
    rig, daemon = machine
    rig.drain()
    rig.books.require_scan(rig.id, {"other": Reason.ASKED.value})
    compared(rig, daemon, {"other": Reason.ASKED}, most=0)


# When it begins, and that it goes on.

NIGHT = ResyncWindow(start=Start.SCHEDULED)


@pytest.fixture
def waiting(site, machine, monkeypatch):
    """`raw` must be compared, in steps of 1 MiB, and waits for the night. It is 8 o'clock: (rig, daemon)."""
    monkeypatch.setattr(source, "SCAN_READ", 1 << 20)
    monkeypatch.setattr(source, "SCAN_STEP", 1 << 20)
    rig, daemon = machine
    rig.books.set_policy(rig.id, Policy(frequency=1, reserve=0, resync=NIGHT))
    rig, daemon = off(site, rig, daemon, lambda folder: io(folder / "raw.img", 3 * BLOCK, 9, "raw"))
    rig.until(lambda: rig.state is State.RESYNC_REQUIRED)
    rig.drain()
    assert rig.state is State.RESYNC_REQUIRED
    return rig, daemon


def scanned(rig):
    return rig.books.get(rig.id).disk("raw").scanned


def test_it_waits_for_its_window_and_runs_on_past_its_end(waiting):
    rig, daemon = waiting
    assert NIGHT.hours == Hours(start=NIGHT.hours.start, end=NIGHT.hours.end)
    rig.clock.advance(hours=10, minutes=29, seconds=59)
    rig.drain()
    assert (rig.state, scanned(rig)) == (State.RESYNC_REQUIRED, 0)
    rig.clock.advance(seconds=1)
    rig.engine.step()
    rig.engine.step()
    assert (rig.state, scanned(rig)) == (State.RESYNCHRONIZING, 1 << 20)
    rig.clock.advance(hours=12)
    rig.engine.step()
    assert (rig.state, scanned(rig)) == (State.RESYNCHRONIZING, 2 << 20)
    same_as(rig, daemon)
    assert rig.seen.scanned_bytes == {"raw": SIZE}


def test_an_operator_starts_it_cancels_it_and_starts_it_again_where_it_was(waiting):
    rig, daemon = waiting
    rig.books.set_resync(rig.id, "now")
    rig.until(lambda: scanned(rig) == 2 << 20)
    assert rig.state is State.RESYNCHRONIZING
    rig.books.set_resync(rig.id, "cancelled")
    rig.drain()
    assert (rig.state, scanned(rig)) == (State.RESYNC_REQUIRED, 2 << 20)
    rig.clock.advance(hours=12)
    rig.drain()
    assert (rig.state, scanned(rig)) == (State.RESYNC_REQUIRED, 2 << 20), "not in its window either"
    rig.books.set_resync(rig.id, "now")
    same_as(rig, daemon)
    assert rig.seen.scanned_bytes == {"raw": SIZE}, "nothing was read twice"
    assert rig.books.get(rig.id).resync == ""


@pytest.mark.parametrize("restarted", [False, True])
def test_paused_and_resumed_it_goes_on_where_it_was(site, waiting, restarted):
    rig, daemon = waiting
    rig.books.set_resync(rig.id, "now")
    rig.until(lambda: scanned(rig) == 2 << 20)
    rig.engine.pause()
    rig.drain()
    assert (rig.state, scanned(rig)) == (State.PAUSED, 2 << 20)
    write(daemon, "raw", 0, noise(PAGE, 77))
    read = dict(rig.seen.scanned_bytes)
    if restarted:
        stop(rig)
        rig = again(site, rig, daemon)
    rig.engine.resume()
    same_as(rig, daemon)
    if restarted:
        read["raw"] += rig.seen.scanned_bytes["raw"]
    assert (read if restarted else rig.seen.scanned_bytes) == {"raw": SIZE}


def test_while_the_closing_point_waits_for_the_store_others_follow_it(site, machine):
    rig, daemon = machine
    store = rig.store = FaultyStore(DirectoryStore(site.folder / "store"))
    rig, daemon = off(site, rig, daemon, lambda folder: io(folder / "raw.img", 3 * BLOCK, 9, "raw"))
    rig.until(lambda: rig.state is State.RESYNCHRONIZING)
    store.add(Fault("put_if_absent", refused(), times=None))
    contents = []
    rig.until(lambda: rig.books.get(rig.id).closing)
    contents.append(now(daemon))
    for number in range(3):
        write(daemon, "qcow", number * BLOCK, noise(PAGE, number + 30))
        contents.append(now(daemon))
        due(rig)
        assert rig.engine.source_step() is SourceAction.CYCLE
        rig.engine.target_step()
    assert rig.state is State.RESYNCHRONIZING
    waits = [entry.nonce for entry in rig.books.queue(rig.id) if entry.kind == "point"]
    assert len(waits) == 4
    store.heal()
    rig.engine.retry_now()
    rig.until(lambda: rig.state is State.PROTECTED)
    rig.drain()
    points = {point.nonce: point.seq for point in ReplicaLog.read(rig.store, "vm").points}
    assert [rig.images(points[nonce]) for nonce in waits] == contents
    same_as(rig, daemon)
