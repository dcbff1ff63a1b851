"""What happens when change tracking is lost: only what differs is sent, and points stay (C4)."""

from __future__ import annotations

import random
import signal

import pytest

from standby import failpoints
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.replica.journal import ReplicaLog
from standby.replication.states import State
from tests.hypervisor import processes
from tests.hypervisor.processes import FORMATS, PAGE, SIZE, Daemon, contents
from tests.replication.rig import Rig

pytestmark = pytest.mark.slow

DISKS = {name: FORMATS[name] for name in ("qcow", "raw", "vhdx")}


def fill(daemon: Daemon, seed: int, pages: int) -> None:
    """Write random pages to every disk."""
    rng = random.Random(seed)
    for name in daemon.formats:
        disk = processes.NbdDisk(daemon.nbd, name, connections=1)
        for _ in range(pages):
            disk.write(rng.randrange(SIZE // PAGE) * PAGE, memoryview(rng.randbytes(PAGE)))
        disk.flush()
        disk.close()


def on_disk(daemon: Daemon) -> dict[str, bytearray]:
    found = {}
    for name in daemon.formats:
        disk = processes.NbdDisk(daemon.nbd, name, connections=1)
        found[name] = contents(disk)
        disk.close()
    return found


def sent(records) -> int:
    return sum(log.data for record in records for disk in record.disks for log in disk.logs)


@pytest.fixture
def protected(tmp_path):
    """A protected machine of three disks, each half full of random pages; its daemons, newest last."""
    daemons = [Daemon(tmp_path, DISKS)]
    fill(daemons[0], 1, SIZE // PAGE // 2)
    rig = Rig(tmp_path, daemons[0].hypervisor())
    rig.protect()
    yield daemons, rig
    rig.close()
    daemons[-1].stop()


def restart(tmp_path, daemons, rig, how) -> None:
    """The machine ends, another process writes to a disk of it, and it starts again."""
    daemons[-1].stop(how)
    with (tmp_path / "raw.img").open("r+b") as raw:
        raw.seek(7 * PAGE)
        raw.write(b"offline".ljust(PAGE, b"."))
    daemons.append(Daemon(tmp_path, DISKS))
    rig.hypervisor = daemons[-1].hypervisor()
    rig.engine.close()
    rig.enable()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_machine_that_restarts_is_compared_and_only_differences_are_sent(tmp_path, protected, how):
    daemons, rig = protected
    fill(daemons[-1], 2, 5)
    points = len(ReplicaLog.read(rig.store, "vm").points)
    rig.seen.records.clear()
    rig.seen.states.clear()
    restart(tmp_path, daemons, rig, how)
    rig.until(lambda: rig.seen.states[-1:] == [State.PROTECTED] and rig.state is State.PROTECTED)
    assert rig.images() == on_disk(daemons[-1])
    # At most the blocks that were written since: five pages a disk, and the offline one.
    assert 0 < sent(rig.seen.records) <= 16 * 64 << 10
    assert State.RESYNC_REQUIRED in rig.seen.states
    assert State.RESYNCHRONIZING in rig.seen.states
    scanned = set(rig.seen.scanned_bytes)
    # qcow2 keeps its bitmaps over a clean stop, and is not read again then.
    assert (rig.seen.scanned_bytes["qcow"] == SIZE) is (how is signal.SIGTERM)
    assert scanned == set(DISKS)
    assert len(ReplicaLog.read(rig.store, "vm").points) > points, "recovery points survive"


def test_a_restart_during_initial_replication_resends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("standby.replication.source.SCAN_LOG", 1 << 20)
    monkeypatch.setattr("standby.replication.source.SCAN_STEP", 1 << 20)
    daemons = [Daemon(tmp_path, {"raw": FORMATS["raw"]})]
    fill(daemons[0], 1, SIZE // PAGE)
    rig = Rig(tmp_path, daemons[0].hypervisor())
    rig.enable()
    rig.until(lambda: len(rig.seen.records) >= 2)
    first = sent(rig.seen.records)
    daemons[0].stop(signal.SIGKILL)
    daemons.append(Daemon(tmp_path, {"raw": FORMATS["raw"]}))
    rig.hypervisor = daemons[-1].hypervisor()
    rig.engine.close()
    rig.enable()
    rig.until(lambda: rig.state is State.PROTECTED)
    assert rig.images() == on_disk(daemons[-1])
    content = sum(not_zero(data) for data in on_disk(daemons[-1]).values())
    assert first > 0
    assert sent(rig.seen.records) <= content
    rig.close()
    daemons[-1].stop()


def not_zero(data: bytearray) -> int:
    """Bytes in pages that are not all zeros."""
    return sum(PAGE for at in range(0, len(data), PAGE) if any(data[at : at + PAGE]))


def test_pause_and_resume_lose_nothing(protected):
    daemons, rig = protected
    rig.engine.pause()
    assert rig.state is State.PAUSED
    fill(daemons[-1], 3, 5)
    before = len(rig.seen.records)
    for _ in range(5):
        rig.engine.step()
    assert len(rig.seen.records) == before
    rig.engine.resume()
    scanned = dict(rig.seen.scanned_bytes)
    rig.point()
    assert rig.images() == on_disk(daemons[-1])
    assert rig.seen.scanned_bytes == scanned


def test_points_queued_before_the_loss_do_not_close_the_scan(tmp_path, protected):
    daemons, rig = protected
    for seed in (5, 6):
        fill(daemons[-1], seed, 5)
        rig.source.cycle()
    assert len(rig.books.queue(rig.id)) == 2
    restart(tmp_path, daemons, rig, signal.SIGKILL)
    rig.seen.states.clear()
    rig.until(lambda: rig.state is State.PROTECTED and State.RESYNCHRONIZING in rig.seen.states)
    assert rig.seen.states.index(State.RESYNCHRONIZING) < rig.seen.states.index(State.PROTECTED)
    assert rig.images() == on_disk(daemons[-1])


@pytest.mark.parametrize("step", ["source.recovered", "source.begun", "source.loss_noted"])
def test_a_kill_while_a_loss_is_noted_does_not_hide_it(tmp_path, protected, step):
    daemons, rig = protected
    restart(tmp_path, daemons, rig, signal.SIGKILL)
    failpoints.arm(f"{step}=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            rig.until(lambda: False)
    finally:
        failpoints.arm("")
    rig.engine.close()
    rig.enable()
    rig.until(lambda: rig.state is State.PROTECTED and State.RESYNCHRONIZING in rig.seen.states)
    assert rig.images() == on_disk(daemons[-1])
    assert sent(rig.seen.records[1:]) < SIZE


def test_what_is_queued_is_learned_before_it_is_shipped_even_without_the_machine(tmp_path, protected):
    """A block that goes back to what it was before a queued point must not pass for unchanged."""
    daemons, rig = protected
    with rig.books._write() as db:
        # Beside the disks: finding that place asks the machine.
        db.execute("UPDATE relationship SET spool = ''")
    before = on_disk(daemons[-1])
    fill(daemons[-1], 8, 5)
    failpoints.arm("cycle.entered=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            rig.source.cycle()
    finally:
        failpoints.arm("")
    rig.engine.close()
    machine = rig.hypervisor
    rig.hypervisor = QemuHypervisor({"vm": QemuMachine(qmp=tmp_path / "gone")})
    rig.enable()
    rig.until(lambda: not rig.books.queue(rig.id))
    rig.engine.close()
    rig.hypervisor = machine
    rig.enable()
    for name, content in before.items():
        disk = processes.NbdDisk(daemons[-1].nbd, name, connections=1)
        disk.write(0, memoryview(content))
        disk.close()
    rig.until(lambda: rig.source.ready)
    rig.point()
    assert rig.images() == on_disk(daemons[-1]) == before


def test_a_disk_that_grew_is_compared_and_older_points_keep_their_size(tmp_path, protected):
    daemons, rig = protected
    old = ReplicaLog.read(rig.store, "vm").point()
    daemons[-1].stop()
    with (tmp_path / "raw.img").open("r+b") as raw:
        raw.truncate(SIZE + 5 * PAGE)
        raw.seek(SIZE + PAGE)
        raw.write(b"grown")
    daemons.append(Daemon(tmp_path, DISKS))
    rig.hypervisor = daemons[-1].hypervisor()
    rig.engine.close()
    rig.enable()
    rig.seen.states.clear()
    rig.until(lambda: rig.state is State.PROTECTED and State.RESYNCHRONIZING in rig.seen.states)
    assert rig.images() == on_disk(daemons[-1])
    assert len(rig.images()["raw"]) == SIZE + 5 * PAGE
    assert len(rig.images(old.seq)["raw"]) == SIZE
    rig.point()
    assert "resized" not in str(rig.seen.errors)
