"""What the world does wrong: each with what standby says, and that nothing is lost."""

from __future__ import annotations

import os
import shutil
from uuid import uuid4

import pytest
from ulid import ULID

from standby.clock import SystemClock
from standby.errors import Fenced
from standby.hypervisor import cut as cut_module
from standby.hypervisor.base import Consistency, DiskInUse, MachineUnreachable
from standby.hypervisor.findings import image_chain_problems
from standby.objects.directory import DirectoryStore
from standby.replica import writer as replica_writer
from standby.replica.format import BLOCK
from standby.replica.journal import ReplicaLog
from standby.replica.verify import verify_logs
from standby.replication import source as source_module
from standby.replication.enable import NotReady, take_over
from standby.replication.states import State
from tests.hypervisor.processes import PAGE, SIZE, StandInAgent, wait_for
from tests.replication.site import (
    again,
    complete,
    due,
    noise,
    now,
    run,
    same_as,
    stop,
    write,
)
from tests.support.differencing import make_differencing_vhd, make_differencing_vhdx, vhd_uuid
from tests.support.faulty_store import Fault, FaultyStore, full, lost, refused

pytestmark = pytest.mark.slow

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting file systems needs root")


# What the prerequisites check finds.


def test_all_that_stands_against_protection_is_told_at_once__vhdx_by_path_as_qemu_opens_no_such_disk(site):
    folder = site.folder / "host"
    folder.mkdir()
    for name in ("old-parent.img", "child.img", "orphan.img"):
        run(
            "qemu-img",
            "create",
            "-q",
            "-f",
            "vpc",
            "-o",
            "subformat=dynamic,force_size=on",
            folder / name,
            SIZE,
        )
    parent = folder / "old-parent.img"
    changed = parent.stat().st_mtime
    make_differencing_vhd(folder / "child.img", vhd_uuid(parent), changed, parent.name)
    make_differencing_vhd(folder / "orphan.img", uuid4(), changed, "gone.img")
    os.utime(parent, (changed + 100, changed + 100))
    bad = folder / "bad.vhdx"
    run("qemu-img", "create", "-q", "-f", "vhdx", bad, SIZE)
    make_differencing_vhdx(bad, uuid4(), {"relative_path": ".\\base.vhdx"})

    formats = dict.fromkeys(("child", "orphan"), ("vpc", ""))
    formats |= {"strange": ("vdi", ""), "good": ("vhdx", ""), "raw": ("raw", "")}
    daemon = site.daemon(formats=formats)
    daemon.control.command("blockdev-add", driver="null-co", node_name="sink", size=SIZE, read_zeroes=True)
    write(daemon, "raw", 0, noise(1 << 20))
    daemon.control.command(
        "blockdev-mirror", job_id="theirs", device="raw", target="sink", sync="full", speed=1
    )

    def problems(path, driver):
        return image_chain_problems(bad if driver == "vhdx" else path, driver)

    rig = site.rig(daemon, hypervisor=daemon.hypervisor(chain_problems=problems))
    with pytest.raises(NotReady) as caught:
        rig.enable()
    daemon.control.command("block-job-cancel", device="theirs", force=True)
    found = [(one.subject, one.problem, one.fix) for one in caught.value.findings if one.blocks]
    for subject, *words in (
        ("vm, disk child", str(parent), "was modified after"),
        ("vm, disk child", "child.img is a differencing disk"),
        ("vm, disk orphan", str(folder / "gone.img"), "is missing"),
        ("vm, disk good", str(folder / "base.vhdx"), "is missing"),
        ("vm, disk strange", "'vdi' is not one that is tracked"),
        ("vm", "mirror job (theirs) runs"),
    ):
        hits = [
            fix for who, problem, fix in found if who == subject and all(word in problem for word in words)
        ]
        assert len(hits) == 1, (subject, words, found)
        assert hits[0]
        assert words[0] in str(caught.value)
    assert rig.books.relationships() == []
    assert daemon.bitmaps() == []
    assert not list((site.folder / "store" / "vm").glob("*"))


def test_an_nbd_server_of_somebody_else_in_the_process(site):
    daemon = site.daemon(serve=False)
    theirs = {"type": "unix", "data": {"path": str(site.folder / "theirs")}}
    daemon.control.command("nbd-server-start", addr=theirs)
    rig = site.rig(daemon)
    with pytest.raises(
        NotReady, match=r"vm: .*already serves NBD for somebody else.*tell standby the socket"
    ):
        rig.enable()
    daemon.control.command("nbd-server-stop")
    rig.enable()


# What others do to the machine while it is protected.


def test_bitmaps_and_jobs_of_other_tools_are_left_alone_and_waited_for(site):
    daemon = site.daemon()
    daemon.control.command("block-dirty-bitmap-add", node="raw", name="theirs")
    write(daemon, "raw", 0, noise(PAGE))
    rig = site.rig(daemon)
    rig.protect()
    daemon.control.command("blockdev-add", driver="null-co", node_name="sink", size=SIZE)
    daemon.control.command(
        "blockdev-mirror", job_id="their-job", device="raw", target="sink", sync="full", speed=1
    )
    write(daemon, "raw", 2 * BLOCK, noise(PAGE, 2))
    for missed in (1, 2):
        due(rig)
        rig.until(lambda count=missed: len(rig.seen.errors) == count)
        assert isinstance(rig.seen.errors[-1], DiskInUse)
        assert "Node 'raw' is busy" in complete(rig.seen.errors[-1])
    assert [job["id"] for job in daemon.control.command("query-jobs")] == ["their-job"]
    daemon.control.command("block-job-cancel", device="their-job", force=True)
    wait_for(lambda: not daemon.control.command("query-jobs"), "their job to end")
    due(rig)
    same_as(rig, daemon)
    assert State.RESYNC_REQUIRED not in rig.seen.states
    rig.source.stop()
    assert daemon.bitmaps() == [("raw", "theirs")]


def test_a_guest_agent_that_hangs_on_freeze_is_thawed_and_the_point_says_so(site):
    daemon = site.daemon()
    agent = StandInAgent(site.folder / "agent-socket")
    site.ends(agent.close)
    rig = site.rig(daemon, hypervisor=daemon.hypervisor(agent.path, freeze_limit=0.5))
    rig.protect()
    agent.silent.add("guest-fsfreeze-freeze")
    write(daemon, "raw", 0, noise(PAGE))
    _, record = rig.point(Consistency.APPLICATION)
    assert record.consistency == Consistency.CRASH.value
    assert "vm" in record.note
    assert "guest-fsfreeze-freeze" in record.note
    wait_for(lambda: "guest-fsfreeze-thaw" in agent.history and not agent.frozen, "the guest to be thawed")
    assert rig.images() == now(daemon)


@pytest.mark.parametrize("step", ["cut exported", "cut read"])
def test_a_machine_that_is_gone_mid_cycle(site, monkeypatch, step):
    daemon = site.daemon()
    rig = site.rig(daemon)
    write(daemon, "raw", 0, noise(3 * BLOCK))
    rig.protect()
    write(daemon, "raw", BLOCK, noise(PAGE, 2))
    write(daemon, "qcow", BLOCK, noise(PAGE, 3))

    class Kill:
        def reach(self):
            daemon.process.kill()
            daemon.process.wait()

    with monkeypatch.context() as patch:
        module, name = (cut_module, "_exported") if step == "cut exported" else (source_module, "_CUT_READ")
        patch.setattr(module, name, Kill())
        due(rig)
        rig.engine.step()
    error = rig.seen.errors[-1]
    assert isinstance(error, MachineUnreachable)
    assert "vm" in str(error)
    assert str(daemon.qmp) in str(error) or str(daemon.nbd) in str(error)
    due(rig)
    rig.engine.step()
    assert isinstance(rig.seen.errors[-1], MachineUnreachable), "and it waits for the machine"
    assert str(daemon.qmp) in complete(rig.seen.errors[-1])
    daemon.stop()
    daemon = site.daemon()
    due(rig)
    same_as(rig, daemon)
    assert list(rig.spool.iterdir()) == []
    assert daemon.leftovers() == []


# The store.

FAULTS = {
    "full at upload": ("put_file", full()),
    "full at commit": ("put_if_absent", full()),
    "unreachable at upload": ("put_file", refused()),
    "unreachable at commit": ("put_if_absent", refused()),
    "unreachable at the check": ("get_if_changed", refused()),
    "answer lost at upload": ("put_file", lost()),
    "answer lost at commit": ("put_if_absent", lost()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_store_in_trouble_is_waited_for_and_captures_go_on(site, fault):
    daemon = site.daemon()
    store = FaultyStore(DirectoryStore(site.folder / "store", create=True))
    rig = site.rig(daemon, store)
    rig.protect()
    verb, effect = FAULTS[fault]
    before = len(ReplicaLog.read(store, "vm").points)
    store.add(Fault(verb, effect, times=None))
    contents, waits, calls = [], [], 0
    for minutes in (0, 1, 2, 4):
        # Not a second early.
        rig.clock.advance(seconds=max(0, minutes * 60 - 2))
        if minutes:
            calls = len(store.calls)
            rig.engine.target_step()
            assert len(store.calls) == calls
        rig.clock.advance(seconds=2)
        write(daemon, "raw", len(contents) * BLOCK, noise(PAGE, len(contents)))
        contents.append(now(daemon))
        rig.engine.step()
        trouble = rig.books.get(rig.id).send
        waits.append(round((trouble.retry_at - rig.clock.now().timestamp()) / 60, 3))
        assert trouble.failures == len(waits)
        assert "injected" in trouble.error
    assert waits == [1, 2, 4, 8]
    queued = [entry.nonce for entry in rig.books.queue(rig.id)]
    assert len(queued) == 4
    store.heal()
    rig.clock.advance(seconds=8 * 60)
    rig.drain()
    log = ReplicaLog.read(store, "vm")
    points = log.points[before:]
    assert [point.nonce for point in points][:4] == queued
    assert [rig.images(point.seq) for point in points[:4]] == contents
    assert verify_logs(log).findings == ()
    assert rig.books.get(rig.id).send is None
    assert list(rig.spool.iterdir()) == []


@ROOT
@pytest.mark.parametrize("trouble", ["full", "read-only", "gone"])
def test_a_real_store_that_is_full_or_read_only_or_gone(site, trouble):
    place = site.tmpfs("volume", "size=8m")
    daemon = site.daemon()
    rig = site.rig(daemon, DirectoryStore(place / "store", create=True))
    rig.protect()
    if trouble == "full":
        with (place / "filler").open("wb") as filler:
            filler.write(bytes((8 << 20) - (512 << 10)))
    elif trouble == "read-only":
        run("mount", "-o", "remount,ro", place)
    else:
        (place / "store").rename(place / "elsewhere")
    write(daemon, "raw", 0, noise(2 << 20))
    due(rig)
    rig.engine.step()
    text = complete_or_hint(rig.seen.errors[-1])
    assert str(place) in text
    assert len(rig.books.queue(rig.id)) == 1
    if trouble == "full":
        (place / "filler").unlink()
    elif trouble == "read-only":
        run("mount", "-o", "remount,rw", place)
    else:
        (place / "elsewhere").rename(place / "store")
    rig.clock.advance(seconds=60)
    if trouble == "read-only":
        rig.engine.retry_now()
    same_as(rig, daemon)


def complete_or_hint(error):
    assert error.subject
    assert error.cause
    assert error.hint, str(error)
    return str(error)


# Local space.


@ROOT
def test_a_full_spool_misses_the_cycle_and_the_next_one_covers_it(site):
    spool = site.tmpfs("tiny", "size=256k")
    daemon = site.daemon()
    rig = site.rig(daemon, spool=spool)
    rig.protect()
    points = len(rig.seen.records)
    write(daemon, "raw", 0, noise(2 << 20))
    for missed in (1, 2):
        due(rig)
        rig.until(lambda count=missed: len(rig.seen.errors) == count)
        assert str(spool) in complete_or_hint(rig.seen.errors[-1])
        write(daemon, "qcow", 0, noise(PAGE, 5))
    assert (len(rig.seen.records), rig.books.queue(rig.id), list(spool.iterdir())) == (points, [], [])
    run("mount", "-o", "remount,size=16m", spool)
    due(rig)
    same_as(rig, daemon)
    assert ReplicaLog.read(rig.store, "vm").points[-1].kind == "point"
    assert not any(disk.scan for disk in rig.books.get(rig.id).disks)
    assert State.RESYNC_REQUIRED not in rig.seen.states, "nothing was lost, so nothing is scanned"


# Another writer.


def test_a_second_writer_fences_the_first_which_says_so_and_never_writes_again(site):
    daemon = site.daemon()
    store = FaultyStore(DirectoryStore(site.folder / "store", create=True))
    rig = site.rig(daemon, store)
    rig.protect()
    replica_writer.attach(
        store.inner, "vm", owner="agent@host-b", clock=SystemClock(), new_id=lambda: str(ULID())
    )
    write(daemon, "raw", 0, noise(PAGE))
    due(rig)
    with pytest.raises(Fenced, match="another writer owns the replica") as caught:
        rig.engine.step()
    assert "--take-over" in caught.value.hint
    assert rig.state is State.FENCED
    assert "another writer owns" in rig.books.get(rig.id).error
    stop(rig)
    rig = again(site, rig, daemon)
    store.calls.clear()
    for _ in range(5):
        rig.clock.advance(seconds=3600)
        rig.engine.step()
    assert store.calls == []
    take_over(rig.books, rig.id)
    same_as(rig, daemon)


def test_fenced_by_a_writer_of_other_content_and_taken_back_by_hashes(site):
    first, second = site.daemon("one"), site.daemon("two")
    for daemon in (first, second):
        write(daemon, "raw", 0, noise(2 << 20))
        write(daemon, "qcow", 0, noise(1 << 20, 2))
    rig = site.rig(first)
    rig.protect()
    stop(rig)
    shutil.copytree(site.folder / "agent", site.folder / "copy")
    rig = again(site, rig, first)
    rig.drain()
    rig.point()
    write(second, "raw", 5 * BLOCK, noise(BLOCK, 3))
    write(second, "raw", 40 * BLOCK, noise(BLOCK, 4))
    write(second, "qcow", 3 * BLOCK, bytes(BLOCK))
    other = again(site, rig, second, name="copy", spool=site.folder / "other-spool")
    same_as(other, second)
    stop(other)
    points = [(point.seq, point.nonce) for point in ReplicaLog.read(rig.store, "vm").points]
    write(first, "raw", 20 * BLOCK, noise(PAGE, 9))
    due(rig)
    with pytest.raises(Fenced):
        rig.until(lambda: False)
    assert rig.state is State.FENCED
    take_over(rig.books, rig.id)
    taken = len(rig.seen.records)
    same_as(rig, first)
    sent = sum(log.data for record in rig.seen.records[taken:] for disk in record.disks for log in disk.logs)
    assert 0 < sent <= 6 * BLOCK, "only what differs, and no full copy"
    left = [(point.seq, point.nonce) for point in ReplicaLog.read(rig.store, "vm").points]
    assert left[: len(points)] == points, "points stay"
