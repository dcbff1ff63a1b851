"""What standby gives up for the guest: space, time, a frozen file system."""

from __future__ import annotations

import subprocess

import pytest

from standby.block.disk import DiskUnreachable
from standby.errors import InvalidRequest
from standby.hypervisor.base import Consistency, CutBroken, MachineUnreachable, ScratchFull
from standby.hypervisor.exports import Exports, NbdServerTaken
from standby.hypervisor.qmp import ControlSocketBusy, Qmp
from standby.hypervisor.scratch import CutLimits, needed
from tests.hypervisor.processes import FORMATS, SIZE, Daemon, Writer, contents, wait_for

SIZES = dict.fromkeys(FORMATS, SIZE)


def begun(hypervisor, scratch):
    tracking = hypervisor.tracking("vm", "rel", scratch)
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    return tracking


def test_room_for_a_cut_is_the_reserve_and_what_may_be_used():
    limits = CutLimits(reserve=100 << 20)
    assert needed([1 << 40], limits) == 200 << 20
    assert needed([1 << 20], limits) < 103 << 20


@pytest.fixture
def small_volume(tmp_path):
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", path], check=False)
    if mounted.returncode:
        pytest.skip("this user may not mount a small volume")
    yield path
    wait_for(
        lambda: subprocess.run(["umount", path], check=False, stderr=subprocess.DEVNULL).returncode == 0,
        "unmount",
    )


@pytest.mark.slow
def test_scratch_volume_that_fills_up_breaks_the_cut_and_not_the_guest(daemon, small_volume):
    limits = CutLimits(reserve=5 << 20, interval=0.005)
    tracking = begun(daemon.hypervisor(limits=limits), small_volume)
    with Writer(daemon, pause=0.002) as writer:
        cut = tracking.cut(2, Consistency.CRASH)
        wait_for(cut.broken, "the watch")
        writer.more()
        with pytest.raises(CutBroken, match="left on the scratch volume"):
            cut.release()
        writer.more()
        assert writer.error is None
        assert daemon.leftovers() == []
        # The changes of the cycle that was missed are in the next one.
        tracking.recover(1, SIZES)
        with tracking.cut(2, Consistency.CRASH) as cut:
            assert all(dirty for _, dirty in cut.disks.values())
    tracking.close()


@pytest.mark.slow
def test_cut_is_not_opened_without_room(daemon, small_volume):
    tracking = begun(daemon.hypervisor(limits=CutLimits(reserve=10 << 20)), small_volume)
    with pytest.raises(ScratchFull, match=r"1\d MiB are free"):
        tracking.cut(2, Consistency.CRASH)
    assert {bitmap for _, bitmap in daemon.bitmaps()} == {"standby-rel-1"}
    tracking.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (CutLimits(seconds=0.2, reserve=1 << 20, interval=0.02), "open for longer than 0.2 s"),
        (CutLimits(budget=3 << 20, reserve=1 << 20, interval=0.005), "3 MiB are allowed"),
    ],
)
def test_cut_that_takes_too_long_or_too_much_is_given_up(daemon, scratch, limits, reason):
    tracking = begun(daemon.hypervisor(limits=limits), scratch)
    with Writer(daemon) as writer:
        # Reading fails by then; what the caller is told is that the cut broke.
        with pytest.raises(CutBroken, match=reason), tracking.cut(2, Consistency.CRASH) as cut:
            contents(wait_for(lambda: cut.broken() and cut.disks["raw"].disk, "the watch"))
        writer.more()
        assert writer.error is None
    assert daemon.leftovers() == []
    tracking.close()


@pytest.mark.slow
def test_frozen_cut(daemon, agent, scratch):
    tracking = begun(daemon.hypervisor(agent.path), scratch)
    with tracking.cut(2, Consistency.APPLICATION) as cut:
        assert (cut.consistency, cut.note, agent.frozen) == (Consistency.APPLICATION, "", False)
    assert [name for name in agent.history if "freeze" in name] == [
        "guest-fsfreeze-freeze",
        "guest-fsfreeze-thaw",
    ]
    tracking.close()


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["none", "silent", "slow freeze", "refused", "dead"])
def test_without_a_good_freeze_the_cut_is_crash_consistent_and_thawed(daemon, agent, scratch, trouble):
    path = {"none": None, "dead": scratch / "nobody"}.get(trouble, agent.path)
    if trouble == "silent":
        agent.silent = {"guest-sync-delimited"}
    if trouble == "slow freeze":
        agent.silent = {"guest-fsfreeze-freeze"}  # it does freeze, and does not say so
    if trouble == "refused":
        agent.refuses = {"guest-fsfreeze-freeze"}
    tracking = begun(daemon.hypervisor(path, freeze_limit=0.5), scratch)
    with tracking.cut(2, Consistency.APPLICATION) as cut:
        assert cut.consistency is Consistency.CRASH
        assert {"none": "no guest agent socket", "refused": "refused"}.get(trouble, "silent") in cut.note
        assert not agent.frozen
    assert ("guest-fsfreeze-thaw" in agent.history) == (trouble in ("slow freeze", "refused"))
    assert not list(scratch.glob("*frozen"))
    tracking.close()


@pytest.mark.slow
def test_watchdog_thaws_while_the_machine_does_not_answer(daemon, agent, scratch, monkeypatch):
    tracking = begun(daemon.hypervisor(agent.path, freeze_limit=0.3), scratch)
    run = tracking._rounds.run

    def slow(actions):
        wait_for(lambda: "guest-fsfreeze-thaw" in agent.history, "the watchdog")
        run(actions)

    monkeypatch.setattr(tracking._rounds, "run", slow)
    with tracking.cut(2, Consistency.APPLICATION) as cut:
        assert (cut.consistency, agent.frozen) == (Consistency.CRASH, False)
        assert "not surely frozen" in cut.note
    tracking.close()


@pytest.mark.slow
def test_guest_that_does_not_answer_the_thaw_is_asked_until_it_does(daemon, agent, scratch):
    agent.silent = {"guest-fsfreeze-freeze", "guest-fsfreeze-thaw", "guest-fsfreeze-status"}
    tracking = begun(daemon.hypervisor(agent.path, freeze_limit=0.2), scratch)
    tracking.cut(2, Consistency.APPLICATION).release()
    mark = scratch / "standby-rel-frozen"
    assert mark.exists()
    agent.silent = set()
    wait_for(lambda: not mark.exists(), "the thaw", 40)
    assert not agent.frozen
    tracking.close()


@pytest.mark.slow
def test_busy_control_socket_says_so(daemon):
    other = Qmp("vm", daemon.qmp)
    with pytest.raises(ControlSocketBusy, match=r"qmp did not greet within 0.3 s.*one client"):
        Qmp("vm", daemon.qmp, greeting_limit=0.3)
    other.close()


@pytest.mark.slow
def test_nbd_server_of_somebody_else_is_told_and_left_alone(daemon, scratch):
    daemon.nbd.rename(daemon.nbd.with_name("moved"))  # as if the user had not told where it is
    tracking = begun(daemon.hypervisor(), scratch)
    with pytest.raises(NbdServerTaken, match="already serves NBD"):
        tracking.cut(2, Consistency.CRASH)
    assert daemon.leftovers() == []
    assert {bitmap for _, bitmap in daemon.bitmaps()} == {"standby-rel-1"}
    tracking.stop()
    tracking.close()
    assert len(daemon.control.command("query-block-exports")) == len(FORMATS)


@pytest.mark.slow
def test_own_nbd_server_is_started_found_again_and_stopped(tmp_path, scratch):
    daemon = Daemon(tmp_path, {"raw": FORMATS["raw"]}, serve=False)
    own = tmp_path / "qmp.standby-nbd"
    try:
        tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
        tracking.recover(0, {"raw": SIZE})
        tracking.begin(1, ["raw"])
        tracking.live()
        assert own.exists()
        tracking._qmp.close()  # the agent dies
        tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
        tracking.recover(1, {"raw": SIZE})
        tracking.cut(2, Consistency.CRASH).release()
        tracking.stop()
        assert not own.exists()
        tracking.close()
    finally:
        daemon.stop()


@pytest.mark.slow
def test_mark_of_a_relationship_must_fit_into_names(daemon, scratch):
    with pytest.raises(InvalidRequest, match="1 to 16"):
        daemon.hypervisor().tracking("vm", "Not-This", scratch)


@pytest.mark.slow
def test_an_export_that_is_gone_again_is_a_machine_that_restarted_and_no_wrong_request(daemon):
    """Found by the soak: a wrong request is not retried, so that machine waited for a person."""
    exports = Exports(daemon.control, "rel", daemon.nbd)
    shown = exports.add("live", "raw")
    disk = exports.open(shown)
    daemon.control.command("block-export-del", id=shown, mode="hard")
    wait_for(lambda: shown not in daemon.leftovers(), "the export to go")
    with pytest.raises(MachineUnreachable, match="no longer serves what was just exported"):
        exports.open(shown)
    with pytest.raises(DiskUnreachable, match="has no export .* any more"):
        disk.clone()
    disk.close()
