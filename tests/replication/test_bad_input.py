"""Stores, spools, books and machines that fail: what is said, what is kept, and how it goes on."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess

import pytest

from standby import failpoints
from standby.errors import Fenced, NeedsPerson
from standby.hypervisor.base import Consistency, MachineUnreachable
from standby.objects.directory import DirectoryStore
from standby.replica.journal import ReplicaLog
from standby.replica.merge import floor_only, merge
from standby.replica.merge_plan import AT_ONCE
from standby.replica.sweep import sweep
from standby.replica.writer import attach
from standby.replication.books import Books, BooksUnwritable
from standby.replication.decide import TargetAction
from standby.replication.enable import NotReady, take_over
from standby.replication.known import KnownLost
from standby.replication.relationship import UNKNOWN
from standby.replication.states import State
from tests.hypervisor.processes import FORMATS, PAGE, Daemon, StandInAgent, Writer, assert_one_instant
from tests.replication.rig import Rig, SettableClock
from tests.replication.test_resync import fill, on_disk, sent
from tests.support.faulty_store import Call, Fault, FaultyStore, full, lost, readonly, refused
from tests.support.replicas import ModelDisk, commit_point, new_id

pytestmark = pytest.mark.slow

DISKS = {name: FORMATS[name] for name in ("qcow", "raw")}


@pytest.fixture
def daemon(tmp_path):
    daemon = Daemon(tmp_path, DISKS)
    yield daemon
    daemon.stop()


@pytest.fixture
def rig(tmp_path, daemon):
    """Protected, on a clock that the test moves, with a store that can be made to fail."""
    fill(daemon, 1, 100)
    clock = SettableClock()
    rig = Rig(tmp_path, daemon.hypervisor(clock=clock))
    rig.clock = clock
    rig.protect()
    yield rig
    rig.close()


def failing(rig: Rig, *faults: Fault) -> None:
    """From now on the store fails so."""
    rig.target._writer.place.store = FaultyStore(rig.store, list(faults))


@pytest.mark.parametrize("verb", ["put_file", "put_if_absent"])
@pytest.mark.parametrize("effect", [refused(), lost(), full()], ids=["unreachable", "answer lost", "full"])
def test_points_queue_while_the_store_fails_and_follow_in_order(rig, daemon, verb, effect):
    failing(rig, Fault(verb, effect, times=3))
    waits = []
    for seed in range(3):
        fill(daemon, 10 + seed, 3)
        rig.clock.advance(seconds=2)
        rig.engine.source_step()
        trouble = rig.books.get(rig.id).send
        before = trouble.failures if trouble else 0
        rig.engine.target_step()
        trouble = rig.books.get(rig.id).send
        if trouble and trouble.failures > before:
            waits.append(round(trouble.retry_at - rig.clock.now().timestamp()))
            assert str(rig.store.url) in trouble.error or "injected" in trouble.error
            # Not due yet: nothing is tried, and capturing goes on.
            assert rig.engine.target_step() is TargetAction.WAIT
            rig.clock.advance(seconds=waits[-1])
    assert waits == [60, 120, 240][: len(waits)]
    assert len(waits) >= 1
    rig.clock.advance(hours=1)
    rig.until(lambda: not rig.books.queue(rig.id))
    assert rig.books.get(rig.id).send is None
    assert rig.images() == on_disk(daemon)
    log = ReplicaLog.read(rig.store, "vm")
    assert [point.at for point in log.points] == sorted(point.at for point in log.points)


def test_a_store_that_refuses_is_not_asked_again_until_somebody_says_so_and_captures_go_on(rig, daemon):
    failing(rig, Fault("put_if_absent", readonly(), times=None))
    fill(daemon, 2, 3)
    rig.source.cycle()
    rig.engine.target_step()
    assert "read-only" in rig.books.get(rig.id).error
    assert len(rig.books.queue(rig.id)) == 1
    assert rig.books.get(rig.id).send.retry_at is None
    failing(rig)
    for _ in range(3):
        rig.clock.advance(hours=1)
        fill(daemon, 3, 3)
        rig.engine.step()
    assert len(rig.books.queue(rig.id)) == 4, "nothing is sent until somebody says so, and captures go on"
    rig.engine.retry_now()
    rig.until(lambda: not rig.books.queue(rig.id))
    assert rig.images() == on_disk(daemon)
    assert rig.books.get(rig.id).send is None


def test_a_second_writer_fences_the_first_which_says_so_and_never_writes_again(rig, daemon):
    attach(rig.store, "vm", owner="agent@host-b", clock=rig.clock, new_id=new_id)
    fill(daemon, 2, 3)
    rig.source.cycle()
    with pytest.raises(Fenced, match="another writer owns the replica.*epoch 2"):
        rig.engine.target_step()
    assert rig.state is State.FENCED
    assert "another writer" in rig.books.get(rig.id).error
    records = len(ReplicaLog.read(rig.store, "vm").records)
    for _ in range(5):
        rig.engine.step()
        rig.clock.advance(hours=1)
    assert len(ReplicaLog.read(rig.store, "vm").records) == records

    # An operator takes it back: a newer epoch, and as the other wrote no point, nothing is read whole.
    rig.engine.close()
    scanned = dict(rig.seen.scanned_bytes)
    take_over(rig.books, rig.id)
    rig.enable()
    rig.until(lambda: rig.state is State.PROTECTED and not rig.books.queue(rig.id))
    assert rig.seen.scanned_bytes == scanned
    assert rig.images() == on_disk(daemon)


def test_an_agent_that_comes_back_to_a_replica_of_another_owner_writes_nothing_until_told_to_take_over(
    rig, daemon
):
    writer = attach(rig.store, "vm", owner="agent@host-b", clock=rig.clock, new_id=new_id)
    disks = [ModelDisk(disk.id, disk.size) for disk in rig.books.get(rig.id).disks]
    disks[0].write(0, b"from the other side" * 1000)
    commit_point(writer, disks, rig.spool)
    objects = sorted(entry.name for entry in rig.store.list(""))
    rig.target.let_go()
    rig.seen.records.clear()
    with pytest.raises(Fenced, match=r"agent@host-b owns the replica \(epoch 2\)"):
        rig.engine.target_step()
    assert rig.state is State.FENCED
    assert sorted(entry.name for entry in rig.store.list("")) == objects
    commit_point(writer, disks, rig.spool)  # the other one goes on undisturbed

    take_over(rig.books, rig.id)
    rig.until(lambda: rig.state is State.PROTECTED and State.RESYNCHRONIZING in rig.seen.states)
    assert rig.images() == on_disk(daemon)
    assert 0 < sent(rig.seen.records) <= 2 * 16 * PAGE
    assert not rig.books.get(rig.id).taking_over


def test_books_that_are_older_than_the_replica_are_noticed_and_nothing_is_sent_twice(rig, daemon, tmp_path):
    rig.engine.close()
    rig.books.close()
    shutil.copytree(tmp_path / "agent", tmp_path / "backup")
    rig.books = Books(tmp_path / "agent")
    rig.enable()
    rig.until(lambda: rig.source.ready and rig.target.attached)
    for seed in range(3):
        fill(daemon, 20 + seed, 3)
        rig.point()
    points = len(ReplicaLog.read(rig.store, "vm").points)
    rig.engine.close()
    rig.books.close()
    shutil.rmtree(tmp_path / "agent")
    shutil.copytree(tmp_path / "backup", tmp_path / "agent")
    rig.books = Books(tmp_path / "agent")
    rig.enable()
    fill(daemon, 30, 3)
    rig.seen.records.clear()
    rig.seen.states.clear()
    rig.until(lambda: rig.state is State.PROTECTED and State.RESYNCHRONIZING in rig.seen.states)
    assert rig.images() == on_disk(daemon)
    assert 0 < sent(rig.seen.records) <= 6 * 16 * PAGE
    assert len(ReplicaLog.read(rig.store, "vm").points) == points + 1


def test_lost_hashes_are_learned_again_from_the_store(rig, daemon):
    fill(daemon, 2, 5)
    rig.point()
    rig.engine.close()
    for disk in rig.books.get(rig.id).disks:
        rig.source.known_path(disk.id).unlink()
    rig.enable()
    # Zeros where the replica has data: with forgotten hashes they would look as if nothing had changed.
    writer = Writer(daemon)
    for name in DISKS:
        writer._disks[name].write(0, memoryview(bytes(2 * PAGE * 16)))
    writer._stop.set()
    rig.source.recover()
    with pytest.raises(KnownLost, match="not known here"):
        rig.source.cycle()
    rig.until(lambda: rig.source.ready and not rig.engine.view().unknown)
    rig.point()
    assert rig.images() == on_disk(daemon)


def test_hashes_are_learned_while_a_merge_takes_logs_away(rig, daemon, tmp_path):
    for _ in range(3):
        fill(daemon, 2, 5)
        rig.point()
    disks = [disk.id for disk in rig.books.get(rig.id).disks]

    def learned() -> dict[str, bytes]:
        rig.books.set_learned(rig.id, disks, UNKNOWN)
        rig.target.refill(rig.source.known_path)
        return {disk: rig.source.known_path(disk).read_bytes() for disk in disks}

    before = learned()

    def fold_and_sweep() -> None:
        newest = ReplicaLog.read(rig.store, "vm").points[-1].seq
        merge(rig.store, "vm", floor_only(newest), scratch=tmp_path, thresholds=AT_ONCE)
        sweep(rig.store, "vm")

    rig.target._store = FaultyStore(rig.store, [Fault("get_range", Call(fold_and_sweep), prefix="vm/logs/")])
    assert learned() == before
    assert rig.target._store.unused() == []
    assert ReplicaLog.read(rig.store, "vm").head.merged


def test_a_full_spool_costs_the_cycle_and_nothing_else(rig, daemon, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=True)
    try:
        with rig.books._write() as db:
            db.execute("UPDATE relationship SET spool = ?", (str(small),))
        fill(daemon, 2, 200)
        rig.clock.advance(seconds=5)
        rig.engine.source_step()
        (error,) = rig.seen.errors
        assert "cannot be written: No space left" in str(error)
        assert str(small) in str(error)
        assert rig.books.queue(rig.id) == []
        assert list(small.iterdir()) == []
        with rig.books._write() as db:
            db.execute("UPDATE relationship SET spool = ?", (str(rig.spool),))
        rig.clock.advance(seconds=5)
        rig.until(lambda: len(ReplicaLog.read(rig.store, "vm").points) > 1)
        assert rig.images() == on_disk(daemon)
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_machine_that_dies_in_the_middle_of_a_cut_is_told_and_leaves_no_orphan(tmp_path):
    daemon = Daemon(tmp_path, DISKS)
    fill(daemon, 1, 100)
    rig = Rig(tmp_path, daemon.hypervisor())
    rig.protect()
    fill(daemon, 2, 50)
    real = rig.source.cycle
    failpoints.arm("cut.exported=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            real()
    finally:
        failpoints.arm("")
    daemon.stop(signal.SIGKILL)
    with pytest.raises(MachineUnreachable, match="vm.*qmp"):
        rig.source.recover()
    assert rig.books.queue(rig.id) == []
    daemon = Daemon(tmp_path, DISKS)
    rig.engine.close()
    rig.hypervisor = daemon.hypervisor()
    rig.enable()
    rig.until(lambda: rig.seen.states[-1:] == [State.PROTECTED] and State.RESYNCHRONIZING in rig.seen.states)
    assert rig.images() == on_disk(daemon)
    assert list(rig.spool.iterdir()) == []
    rig.close()
    daemon.stop()


def test_a_silent_stand_in_guest_agent_gives_a_crash_consistent_point_that_says_why(tmp_path, daemon):
    agent = StandInAgent(tmp_path / "guest-agent")
    agent.silent.add("guest-fsfreeze-freeze")
    rig = Rig(tmp_path, daemon.hypervisor(agent.path, freeze_limit=0.5))
    rig.protect()
    fill(daemon, 2, 3)
    _, record = rig.point(Consistency.APPLICATION)
    assert record.consistency == "crash-consistent"
    assert "agent" in record.note
    assert not agent.frozen
    rig.close()
    agent.close()


def test_all_findings_of_the_prerequisites_check_are_told_at_once(tmp_path, daemon):
    rig = Rig(
        tmp_path,
        daemon.hypervisor(chain_problems=lambda path, kind: [(f"{path}: its parent is missing", "fix")]),
    )
    with pytest.raises(NotReady) as caught:
        rig.enable(excluded={"nosuch"})
    text = str(caught.value)
    assert text.count("its parent is missing") == len(DISKS)
    assert "nosuch" in text
    assert rig.books.relationships() == []
    assert list(rig.store.list("")) == []
    rig.close()


def test_garbage_in_the_books_is_told_with_the_way_out(tmp_path):
    folder = tmp_path / "agent"
    Books(folder).close()
    (folder / "agent.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(NeedsPerson, match=r"agent\.sqlite.*(damaged|not a database).*Next: "):
        Books(folder)


def test_points_are_one_instant_while_answers_get_lost(tmp_path, daemon):
    rig = Rig(
        tmp_path,
        daemon.hypervisor(),
        FaultyStore(
            DirectoryStore(tmp_path / "store", create=True),
            [
                Fault(verb, lost(), prefix="vm/", nth=nth, times=1)
                for verb in ("put_if_absent", "put_file")
                for nth in (3, 5, 6)
            ],
        ),
    )
    with Writer(daemon, pause=0.001) as writer:
        writer.more()
        rig.enable()
        for _ in range(40):
            rig.engine.step()
            rig.engine.retry_now()
            if rig.source.ready and rig.state is State.PROTECTED and not rig.books.queue(rig.id):
                writer.more(50)
                rig.source.cycle()
    log = ReplicaLog.read(rig.store, "vm")
    counts = [assert_one_instant(writer, rig.images(point.seq)) for point in log.points]
    assert counts == sorted(counts)
    assert len(counts) > 5
    assert any(isinstance(error, Exception) for error in rig.seen.errors)
    rig.close()


def test_a_flipped_bit_in_the_head_stops_the_attach_with_its_name(rig, tmp_path):
    head = tmp_path / "store" / "vm" / "replica.json"
    head.write_bytes(head.read_bytes().replace(b"{", b"[", 1))
    rig.target.let_go()
    rig.engine.target_step()
    trouble = rig.books.get(rig.id).send
    assert re.search(r"vm/replica\.json: its bytes are not those", trouble.error)
    assert (trouble.kind, trouble.retry_at) == ("Damaged", None)


def test_an_entry_that_was_committed_and_could_not_be_noted_is_not_committed_twice(rig, daemon, monkeypatch):
    fill(daemon, 2, 3)
    rig.source.cycle()
    (entry,) = rig.books.queue(rig.id)
    monkeypatch.setattr(rig.books, "shipped", lambda *_: (_ for _ in ()).throw(BooksUnwritable("no space")))
    rig.engine.target_step()
    monkeypatch.undo()
    assert "no space" in rig.books.get(rig.id).error
    rig.clock.advance(minutes=1)
    rig.until(lambda: not rig.books.queue(rig.id))
    records = ReplicaLog.read(rig.store, "vm").records
    assert [record.nonce for record in records].count(entry.nonce) == 1
    assert rig.images() == on_disk(daemon)
