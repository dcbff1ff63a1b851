"""Failovers of a machine that is started and does not boot: fence, points, cancelling, committing, what is known."""

from __future__ import annotations

import random
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from standby.block.images import Format
from standby.block.nbd import NbdDisk
from standby.errors import Fenced, InvalidRequest
from standby.hypervisor.host import MachineState
from standby.recovery import hydrate, live, live_steps, live_view, machine_steps, run_directory, serving
from standby.recovery.hydrate import FetchFailed
from standby.recovery.image_writer import opened
from standby.recovery.live import FailoverInProgress, NotFailedOver, Request
from standby.recovery.live_steps import FailedOverElsewhere
from standby.recovery.live_view import Phase
from standby.recovery.machine_steps import OverlayLost
from standby.recovery.prerequisites import NotReady
from standby.recovery.split_brain import SourceRuns, SourceUnknown
from standby.recovery.steps import State
from standby.replica.format import BLOCK
from standby.replica.keys import KeyMissing
from standby.replica.writer import Draft, attach
from tests.hypervisor.processes import contents, wait_for
from tests.recovery.conftest import HOST, ReadOnly, Replica, encrypted_replica
from tests.recovery.machines import SIZE, assert_nothing_left, bootless
from tests.support.replicas import FixedClock, ModelDisk, commit_point, new_id

pytestmark = pytest.mark.slow


def request(replica: Replica, **options) -> Request:
    return Request(str(replica.root), "web", **{"boot_limit": None, "confirmed": True, **options})


def overlays(run: Path) -> list[Path]:
    return sorted(run.glob("*.qcow2"))


def write_to(overlay: Path) -> None:
    """Leave a mark in an overlay, as a guest's write would."""
    with overlay.open("ab") as file:
        file.write(b"written by the guest")


def written(overlay: Path) -> bool:
    return overlay.read_bytes().endswith(b"written by the guest")


def test_it_starts_the_newest_point_under_its_own_name_and_fences_the_source(replica, root, tmp_path):
    seq = bootless(replica, tmp_path)
    told = []
    found = live.start(request(replica), root, HOST, told=told.append)
    assert (found.name, found.seq, found.phase, found.machine) == (
        "web",
        seq,
        Phase.FAILED_OVER,
        MachineState.RUNNING,
    )
    assert found.problems == ()
    assert "said by the operator" in found.known
    assert live_view.machine(found.run, HOST).description.name == "web"
    assert replica.head.epoch == found.epoch == 2
    assert replica.head.owner.startswith("standby failover ")
    assert [hold.seq for hold in replica.head.holds] == [seq]
    disk = ModelDisk("disk0", SIZE)
    disk.write(0, b"too late")
    with pytest.raises(Fenced, match="epoch 2"):
        commit_point(replica.writer, [disk], replica.spool)
    assert [row.task for row in told if row.state is State.DONE] == [
        "Prerequisites check for failover",
        "Check the source virtual machine",
        "Synchronizing the latest changes",
        "Synchronizing the latest changes",
        "Start failover",
        "Start failover",
        "Start failover",
        "Start failover",
        "Start the replica virtual machine",
        "Start the replica virtual machine",
    ]
    with pytest.raises(FailoverInProgress, match=str(found.run)):
        live.start(request(replica), root, HOST)

    live.cancel(found.run, HOST)
    assert_nothing_left(replica, root)
    assert replica.head.owner.startswith("cancelled standby failover "), "the source stays fenced"


def test_what_the_source_commits_before_the_fence_is_what_starts(replica, root, tmp_path, monkeypatch):
    """The newest point is decided behind the fence, not when the command was given."""
    before = bootless(replica, tmp_path)
    fenced = live_steps.attach

    def late(*arguments, **options):
        disk = ModelDisk("disk0", SIZE)
        disk.write(0, b"just in time")
        machine = replica.log().point().machine
        commit_point(replica.writer, [disk, ModelDisk("disk1", SIZE)], replica.spool, machine=machine)
        return fenced(*arguments, **options)

    monkeypatch.setattr(live_steps, "attach", late)
    found = live.start(request(replica), root, HOST)
    assert found.seq == before + 1
    live.cancel(found.run, HOST)


def test_an_agent_that_is_not_told_to_take_over_stays_fenced_after_a_failover(replica, root, tmp_path):
    bootless(replica, tmp_path)
    found = live.start(request(replica), root, HOST)
    with pytest.raises(Fenced, match="standby failover .* owns the replica"):
        attach(replica.store, "web", owner="agent@host-a", clock=FixedClock(), new_id=new_id, take_over=False)
    assert replica.head.epoch == found.epoch
    live.cancel(found.run, HOST)


def test_another_point_loses_what_the_guest_wrote_and_nothing_else(replica, root, tmp_path):
    first = bootless(replica, tmp_path)
    second = bootless(replica, tmp_path)
    found = live.start(request(replica), root, HOST)
    assert found.seq == second
    with pytest.raises(InvalidRequest, match="no recovery point 99"):
        live.change_point(found.run, "99", HOST)
    assert live_view.look(found.run, HOST).machine is MachineState.RUNNING
    live_view.machine(found.run, HOST).kill()
    write_to(overlays(found.run)[0])
    changed = live.change_point(found.run, str(first), HOST)
    assert (changed.seq, changed.phase, changed.epoch) == (first, Phase.FAILED_OVER, found.epoch)
    assert not any(map(written, overlays(found.run)))
    assert [hold.seq for hold in replica.head.holds] == [first]
    live.cancel(found.run, HOST)
    assert_nothing_left(replica, root)


def test_a_machine_that_ended_is_started_again_on_what_it_wrote(replica, root, tmp_path):
    """As after a restart of the host: machine and servers are gone."""
    bootless(replica, tmp_path)
    found = live.start(request(replica), root, HOST)
    live_view.machine(found.run, HOST).kill()
    serving.stop(live_steps.sources(found.run, run_directory.read_order(found.run, live.LiveOrder)))
    [problem] = live_view.look(found.run, HOST).problems
    assert problem.problem == "its machine is off"
    assert f"standby failover resume {found.run}" in problem.fix
    marked = overlays(found.run)[1]
    write_to(marked)
    again = live.resume(found.run, HOST)
    assert again.machine is MachineState.RUNNING
    assert again.problems == ()
    assert written(marked)

    live_view.machine(found.run, HOST).kill()
    marked.rename(tmp_path / "lost")
    with pytest.raises(OverlayLost, match="disk1"):
        live.resume(found.run, HOST)
    assert len(overlays(found.run)) == 1, "nothing else was taken away"
    (tmp_path / "lost").rename(marked)
    assert live.resume(found.run, HOST).machine is MachineState.RUNNING
    live.cancel(found.run, HOST)


def test_a_machine_that_waits_for_its_disk_goes_on_when_it_is_mended(replica, root, tmp_path):
    bootless(replica, tmp_path)
    found = live.start(request(replica), root, HOST)
    live_view.machine(found.run, HOST).pause()
    [problem] = live_view.look(found.run, HOST).problems
    assert "stopped" in problem.problem
    assert live.mend(found.run, HOST) == []
    assert live_view.look(found.run, HOST).machine is MachineState.RUNNING
    live.cancel(found.run, HOST)


def test_committed_it_stays(replica, root, tmp_path):
    bootless(replica, tmp_path)
    found = live.start(request(replica), root, HOST)
    assert live.commit(found.run, HOST).phase is Phase.COMMITTED
    assert live.commit(found.run, HOST).phase is Phase.COMMITTED
    with pytest.raises(NotFailedOver, match="committed"):
        live.cancel(found.run, HOST)
    with pytest.raises(NotFailedOver, match="committed"):
        live.change_point(found.run, "newest", HOST)
    with pytest.raises(NotFailedOver, match="its machine runs"):
        live.clean_up(found.run, HOST, lose=True)
    live_view.machine(found.run, HOST).kill()
    with pytest.raises(NotFailedOver, match="nothing tells"):
        live.clean_up(found.run, HOST)
    assert live_view.look(found.run, HOST).phase is Phase.COMMITTED
    attach(replica.store, "web", owner="standby failover 1 on b", clock=FixedClock(), new_id=new_id)
    with pytest.raises(FailedOverElsewhere, match="standby failover 1 on b"):
        live.resume(found.run, HOST)
    assert live_view.look(found.run, HOST).machine is MachineState.GONE
    # The other one is cancelled: this machine is the one that counts again.
    attach(replica.store, "web", owner="cancelled standby failover 1 on b", clock=FixedClock(), new_id=new_id)
    assert live.resume(found.run, HOST).machine is MachineState.RUNNING
    live_view.machine(found.run, HOST).kill()
    attach(replica.store, "web", owner="standby failover 2 on b", clock=FixedClock(), new_id=new_id)
    live.clean_up(found.run, HOST)
    assert_nothing_left(replica, root)


def test_before_its_machine_starts_it_is_not_committed_and_not_cleaned_up(
    replica, root, tmp_path, monkeypatch
):
    bootless(replica, tmp_path)

    def interrupted(*_):
        raise SystemExit

    monkeypatch.setattr(serving, "start", interrupted)
    with pytest.raises(SystemExit):
        live.start(request(replica), root, HOST)
    monkeypatch.undo()
    [run] = run_directory.recoveries(root)
    assert live_view.look(run, HOST).phase is Phase.FAILING_OVER
    for refused in (live.commit, live.mend, live.clean_up):
        with pytest.raises(NotFailedOver):
            refused(run, HOST)
    assert live.resume(run, HOST).phase is Phase.FAILED_OVER
    live.cancel(run, HOST)
    assert_nothing_left(replica, root)


def test_nothing_is_begun_while_the_source_may_run(replica, root, tmp_path):
    bootless(replica, tmp_path)
    records = len(replica.log().records)
    with pytest.raises(SourceUnknown, match="--yes-the-source-is-down"):
        live.start(request(replica, confirmed=False), root, HOST)
    with pytest.raises(SourceUnknown, match="cannot be asked"):
        live.start(request(replica, confirmed=False, source_qmp=tmp_path / "none"), root, HOST)
    daemon = live.start(request(replica), root, HOST)
    qmp = live_view.machine(daemon.run, HOST).qmp
    (tmp_path / "other").mkdir()
    for confirmed in (True, False):
        with pytest.raises(SourceRuns, match="planned"):
            live.start(request(replica, confirmed=confirmed, source_qmp=qmp), tmp_path / "other", HOST)
    live_view.machine(daemon.run, HOST).pause()
    with pytest.raises(SourceUnknown, match="may be continued"):
        live.start(request(replica, confirmed=False, source_qmp=qmp), tmp_path / "other", HOST)
    live.cancel(daemon.run, HOST)
    writers = {record.writer for record in replica.log().records[records:]}
    assert len(writers) == 2, "only the failover that began has fenced, and said that it was cancelled"
    assert_nothing_left(replica, root)


def test_a_source_whose_process_ended_needs_no_word_of_an_operator(replica, root, tmp_path):
    bootless(replica, tmp_path)
    dead = tmp_path / "qmp"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(dead))
        gone.listen()
    found = live.start(request(replica, confirmed=False, source_qmp=dead), root, HOST)
    assert "its process has ended" in found.known
    live.cancel(found.run, HOST)


def test_a_sealed_replica_needs_no_word_of_an_operator(replica, root, tmp_path):
    bootless(replica, tmp_path)
    newest = replica.log().point()
    replica.writer.commit(
        Draft("seal", new_id(), "2026-11-24T09:00:00+00:00", newest.disks, machine=newest.machine)
    )
    found = live.start(request(replica, confirmed=False), root, HOST)
    assert "shut down for good" in found.known
    assert found.seq == newest.seq + 1
    # The seal is of the source; where the machine was started behind it, it may run.
    with pytest.raises(SourceUnknown, match="It failed over .* ago \\(standby failover"):
        live.start(request(replica, confirmed=False), tmp_path / "other", HOST)
    live.cancel(found.run, HOST)
    again = live.start(request(replica, confirmed=False), root, HOST)
    assert "shut down for good" in again.known, "a cancelled failover runs nowhere"
    live.cancel(again.run, HOST)


def test_a_store_that_cannot_be_written_stops_it_before_anything_starts(replica, root, tmp_path, monkeypatch):
    """Without a fence the source might go on beside it."""
    bootless(replica, tmp_path)
    monkeypatch.setattr(machine_steps, "open_store", lambda _address: ReadOnly(replica.store))
    with pytest.raises(Exception, match="read-only"):
        live.start(request(replica), root, HOST)
    assert_nothing_left(replica, root)


def test_what_stands_against_it_is_told_before_the_source_is_fenced(replica, root, tmp_path):
    bootless(replica, tmp_path)
    for entry in list(replica.store.list("web/boot/")):
        replica.store.delete(entry.name)
    with pytest.raises(NotReady):
        live.start(request(replica), root, HOST)
    assert replica.head.epoch == 1
    assert_nothing_left(replica, root)


def test_a_store_that_is_away_is_waited_for_and_then_all_goes_on(replica, root, tmp_path):
    bootless(replica, tmp_path)
    # In a log of its own and more than its tail, so that no server has it in memory from another read.
    disk1, late = ModelDisk("disk1", SIZE), random.Random(3).randbytes(6 * BLOCK)
    disk1.write(5 * BLOCK, late)
    machine = replica.log().point().machine
    commit_point(replica.writer, [ModelDisk("disk0", SIZE), disk1], replica.spool, machine=machine)
    found = live.start(request(replica), root, HOST)
    live.commit(found.run, HOST)
    away = replica.root.rename(tmp_path / "away")
    replica.root.mkdir()  # as a mount point that nothing is mounted on
    disk = NbdDisk(live_steps.sources(found.run, order_of(found.run))[1].socket, "")
    data = bytearray(BLOCK)
    with ThreadPoolExecutor(2) as pool:
        told = []
        try:
            reading = pool.submit(disk.read, 5 * BLOCK, memoryview(data))
            hydrating = pool.submit(hydrate.hydrate, found.run, HOST, progress=lambda *far: told.append(far))
            wait_for(lambda: len(told) > 6, "looks at how far it is")
            assert not reading.done()
        finally:
            replica.root.rmdir()
            away.rename(replica.root)
        assert not any(far.whole or far.at_work for _, far in told[:6])
        reading.result(30)
        assert hydrating.result(30).whole == ("disk0", "disk1")
    assert bytes(data) == late[:BLOCK]
    disk.close()
    live_view.machine(found.run, HOST).kill()
    with opened(overlays(found.run)[1], Format.QCOW2, SIZE, writable=False) as whole:
        wanted = bytes([2]) * (3 * BLOCK) + bytes(2 * BLOCK) + late + bytes(SIZE - 11 * BLOCK)
        assert contents(whole) == wanted


def test_a_damaged_block_ends_the_fetching_and_not_the_machine(replica, root, tmp_path):
    bootless(replica, tmp_path)
    replica.damage("disk1", into=20)
    found = live.start(request(replica), root, HOST)
    with pytest.raises(FetchFailed, match="block"):
        hydrate.hydrate(found.run, HOST)
    shown = live_view.look(found.run, HOST)
    assert shown.machine is MachineState.RUNNING
    assert shown.whole == ("disk0",)
    live.cancel(found.run, HOST)
    assert_nothing_left(replica, root)


@encrypted_replica
def test_an_encrypted_replica_fails_over_with_its_key_only(replica, root, tmp_path):
    bootless(replica, tmp_path)
    with pytest.raises(KeyMissing, match="--key-file"):
        live.start(request(replica), root, HOST)
    assert list(root.glob("*")) == []
    found = live.start(request(replica, key=replica.key), root, HOST)
    assert hydrate.hydrate(found.run, HOST).whole == ("disk0", "disk1")
    live_view.machine(found.run, HOST).kill()
    assert live.resume(found.run, HOST).machine is MachineState.RUNNING
    live.cancel(found.run, HOST)
    assert_nothing_left(replica, root)


def order_of(run: Path) -> live.LiveOrder:
    return run_directory.read_order(run, live.LiveOrder)
