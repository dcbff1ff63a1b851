"""Cuts and rounds on a real qemu-storage-daemon, with a writer that goes on all the while."""

from __future__ import annotations

import pytest

from standby.errors import Bug
from standby.hypervisor.base import Consistency, CutBroken, Lost, MachineUnreachable, TrackingLost
from tests.hypervisor.cycle import create, recover, take
from tests.hypervisor.processes import FORMATS, SIZE, Writer, assert_one_instant, contents

pytestmark = pytest.mark.slow

SIZES = dict.fromkeys(FORMATS, SIZE)


@pytest.fixture
def tracking(daemon, scratch):
    tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
    yield tracking
    tracking.close()


def images(cut):
    return {name: contents(disk) for name, (disk, _) in cut.disks.items()}


def test_scan_precopy_and_cuts_make_the_disks_of_one_instant(daemon, tracking, scratch):
    copies = create(scratch, SIZES)
    seen = []
    with Writer(daemon) as writer:
        writer.more()
        assert set(recover(tracking, copies).values()) == {Lost.NEVER_TRACKED}
        for precopy in (0, 1, 2, 0, 3, 1):
            found = {}
            take(tracking, copies, precopy, look=lambda cut, found=found: found.update(images(cut)))
            assert copies.contents() == found, f"after {precopy} rounds of pre-copy"
            seen.append(assert_one_instant(writer, found))
            writer.more(50)
    assert seen == sorted(set(seen)), "each cut shows a later instant"
    assert daemon.leftovers() == []


def test_snapshot_does_not_move_while_it_is_open(daemon, tracking):
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    with Writer(daemon) as writer:
        writer.more()
        with tracking.cut(2, Consistency.CRASH) as cut:
            first = images(cut)
            writer.more(500)
            assert images(cut) == first
        assert_one_instant(writer, first)


def test_nothing_of_ours_is_left_after_stop(daemon, tracking, scratch):
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    tracking.advance(2)
    tracking.cut(3, Consistency.CRASH)
    tracking.stop()
    assert (daemon.leftovers(), daemon.bitmaps(), list(scratch.iterdir())) == ([], [], [])


def test_idle_round_shows_nothing_dirty(daemon, tracking):
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    with tracking.cut(2, Consistency.CRASH) as cut:
        assert [dirty for _, dirty in cut.disks.values()] == [[]] * len(SIZES)


def test_release_is_idempotent_and_a_released_round_is_forgotten(daemon, tracking):
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    cut = tracking.cut(2, Consistency.CRASH)
    with pytest.raises(Bug, match="release the cut"):
        tracking.forget(2)
    cut.release()
    cut.release()
    tracking.forget(2)
    assert {bitmap for _, bitmap in daemon.bitmaps()} == {"standby-rel-2"}


def test_forget_never_drops_the_round_that_records(daemon, tracking):
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    tracking.forget(100)
    assert {bitmap for _, bitmap in daemon.bitmaps()} == {"standby-rel-1"}


def test_round_numbers_only_rise(daemon, tracking):
    tracking.recover(0, SIZES)
    tracking.begin(3, list(SIZES))
    with pytest.raises(Bug, match="round 3 is not above"):
        tracking.cut(3, Consistency.CRASH)


def test_two_relationships_do_not_disturb_each_other(daemon, scratch):
    hypervisor = daemon.hypervisor()
    one, two = (hypervisor.tracking("vm", name, scratch) for name in ("one", "two"))
    for tracking in (one, two):
        tracking.recover(0, SIZES)
        tracking.begin(1, list(SIZES))
    with Writer(daemon) as writer:
        with one.cut(2, Consistency.CRASH) as first:
            data = images(first)
            two.recover(1, SIZES)
            with two.cut(2, Consistency.CRASH) as second:
                assert_one_instant(writer, images(second))
            assert images(first) == data
        one.stop()
        assert {bitmap for _, bitmap in daemon.bitmaps()} == {"standby-two-1", "standby-two-2"}
        writer.more()
    one.close()
    two.close()


def test_cut_that_cannot_open_leaves_the_rounds_as_they_were(daemon, tracking, scratch):
    copies = create(scratch, SIZES)
    with Writer(daemon) as writer:
        recover(tracking, copies)
        take(tracking, copies)
        before = daemon.bitmaps()
        # Somebody else's node has the name of the last disk's filter: the transaction fails at its end.
        daemon.control.command("blockdev-add", driver="null-co", node_name="standby-rel-f4", size=SIZE)
        with pytest.raises(Exception, match="standby-rel-f4"):
            tracking.cut(copies.state["next"], Consistency.CRASH)
        daemon.control.command("blockdev-del", node_name="standby-rel-f4")
        assert (daemon.bitmaps(), daemon.leftovers()) == (before, [])
        found = {}
        take(tracking, copies, look=lambda cut: found.update(images(cut)))
        assert copies.contents() == found
        assert_one_instant(writer, found)


def test_cut_whose_job_another_client_cancels_is_broken(daemon, tracking):
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    cut = tracking.cut(2, Consistency.CRASH)
    daemon.control.command("block-job-cancel", device="standby-rel-j0")
    with pytest.raises(CutBroken, match="job"):
        cut.release()
    with pytest.raises(CutBroken):
        cut.release()
    assert daemon.leftovers() == []


def test_machine_that_dies_under_an_open_cut(daemon, tracking, scratch):
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    cut = tracking.cut(2, Consistency.CRASH)
    daemon.process.kill()
    daemon.process.wait()
    cut.release()
    cut.release()
    with pytest.raises(MachineUnreachable, match=r"vm.*qmp"):
        tracking.advance(3)
    with pytest.raises(MachineUnreachable, match=r"vm.*qmp"):
        daemon.hypervisor().tracking("vm", "rel", scratch)


def test_tracking_that_vanished_or_a_disk_that_grew_is_told_by_disk(daemon, tracking):
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    daemon.control.command("block-dirty-bitmap-disable", node="vhdx", name="standby-rel-1")
    with pytest.raises(TrackingLost, match="disk vhdx: change tracking is gone"):
        tracking.cut(2, Consistency.CRASH)
    daemon.control.command("block-dirty-bitmap-enable", node="vhdx", name="standby-rel-1")
    daemon.control.command("block-export-del", id="client-raw")  # QEMU resizes no disk that a client uses
    daemon.control.command("block_resize", node_name="raw", size=SIZE * 2)
    with pytest.raises(TrackingLost, match="disk raw: the disk has another size"):
        tracking.cut(2, Consistency.CRASH)
    lost = tracking.recover(1, SIZES | {"other": SIZE})
    assert {name: why for name, why in lost.items() if why} == {"raw": Lost.RESIZED, "other": Lost.DETACHED}
