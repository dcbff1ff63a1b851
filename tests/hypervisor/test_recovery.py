"""The agent killed at every step of the adapter, and the machine killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import standby.hypervisor.qemu  # noqa: F401  (declares the failpoints)
from standby.failpoints import declared
from standby.hypervisor.base import Consistency, Lost
from tests.hypervisor.cycle import create, recover, take
from tests.hypervisor.processes import FORMATS, SIZE, Daemon, Writer, assert_one_instant, contents, wait_for

pytestmark = pytest.mark.slow

SIZES = dict.fromkeys(FORMATS, SIZE)
POINTS = [name for name in declared() if name.split(".")[0] in ("cut", "rounds", "precopy", "recover")]


def images(cut):
    return {name: contents(disk) for name, (disk, _) in cut.disks.items()}


@pytest.mark.parametrize(
    ("point", "time"),
    # `begin` happens once in the life of a relationship that goes well.
    [(point, time) for point in POINTS for time in (1, 2) if (point, time) != ("rounds.begun", 2)],
)
def test_agent_killed_at_a_step_loses_no_change_and_leaves_nothing(daemon, agent, scratch, point, time):
    copies = create(scratch, SIZES)
    # Names to kill at are taken from the product, so a step that is never reached fails here.
    command = [sys.executable, "-m", "tests.hypervisor.cycle", scratch, daemon.qmp, daemon.nbd, agent.path]
    with Writer(daemon) as writer:
        killed = subprocess.run(
            command,
            env=os.environ | {"STANDBY_FAILPOINT": f"{point}=kill@{time}"},
            cwd=Path(__file__).parents[2],
            timeout=60,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, f"{point} was not reached {time} times"
        writer.more(50)
        tracking = daemon.hypervisor(agent.path).tracking("vm", "rel", scratch)
        begun = bool(copies.state["active"])
        lost = recover(tracking, copies)
        assert not any(lost.values()) or not begun, "a round that goes on in QEMU needs no new scan"
        assert (daemon.leftovers(), list(scratch.glob("standby-*"))) == ([], [])
        assert not agent.frozen
        assert len(daemon.bitmaps()) == len(FORMATS), "one round a disk"
        found = {}
        take(tracking, copies, precopy=1, look=lambda cut: found.update(images(cut)))
        assert copies.contents() == found
        assert_one_instant(writer, found)
        tracking.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_machine_stopped_and_started_again(tmp_path, scratch, how):
    daemon = Daemon(tmp_path)
    copies = create(scratch, SIZES)
    tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
    recover(tracking, copies)
    with Writer(daemon, pause=0.001) as writer:
        writer.more()
        take(tracking, copies)
        writer.more()
    tracking.close()
    daemon.stop(how)
    if how == signal.SIGKILL:
        subprocess.run(["qemu-img", "check", "-q", "-r", "all", tmp_path / "vhdx.img"], check=False)

    daemon = Daemon(tmp_path)
    try:
        tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
        lost = recover(tracking, copies)
        # A round that began in the killed process is not in the image at all.
        qcow = None if how == signal.SIGTERM else Lost.TRACKING_LOST
        assert lost == dict.fromkeys(FORMATS, Lost.TRACKING_LOST) | {"qcow": qcow}
        found = {}
        take(tracking, copies, look=lambda cut: found.update(images(cut)))
        assert copies.contents() == found
        if how == signal.SIGTERM:
            assert assert_one_instant(writer, found) == len(writer.log)
        tracking.close()
    finally:
        daemon.stop()


def test_killed_machine_whose_newest_round_was_never_stored(tmp_path, scratch):
    """Round 1 was in the image when the machine started again; round 2 dies with the process."""
    daemon = Daemon(tmp_path, {"qcow": FORMATS["qcow"]})
    tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
    tracking.recover(0, {"qcow": SIZE})
    tracking.begin(1, ["qcow"])
    tracking.close()
    daemon.stop()
    daemon = Daemon(tmp_path, {"qcow": FORMATS["qcow"]})
    tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
    assert tracking.recover(1, {"qcow": SIZE}) == {"qcow": None}
    tracking.cut(2, Consistency.CRASH).release()
    tracking.close()
    daemon.stop(signal.SIGKILL)
    daemon = Daemon(tmp_path, {"qcow": FORMATS["qcow"]})
    try:
        tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
        assert tracking.recover(1, {"qcow": SIZE}) == {"qcow": Lost.INCONSISTENT}
        assert daemon.bitmaps() == []
        tracking.close()
    finally:
        daemon.stop()


def test_one_disk_lost_goes_on_beside_the_others(daemon, scratch):
    """Another disk's begin does not make an older round of the others look lost, nor a lost one intact."""
    tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
    copies = create(scratch, SIZES)
    with Writer(daemon) as writer:
        recover(tracking, copies)
        take(tracking, copies)
        daemon.control.command("block-dirty-bitmap-remove", node="raw", name="standby-rel-2")
        lost = recover(tracking, copies)
        assert {name for name, why in lost.items() if why} == {"raw"}
        # As if the agent died before it noted anything: the begun round does not reach back to `active`.
        assert tracking.recover(copies.state["active"], SIZES)["raw"] is Lost.TRACKING_LOST
        recover(tracking, copies)
        found = {}
        take(tracking, copies, look=lambda cut: found.update(images(cut)))
        assert copies.contents() == found
        assert_one_instant(writer, found)
    tracking.close()


def test_relationship_that_was_let_go_leaves_other_bitmaps_alone(daemon, scratch):
    daemon.control.command("block-dirty-bitmap-add", node="raw", name="someone-else")
    daemon.control.command("block-dirty-bitmap-add", node="raw", name="standby-other-7")
    tracking = daemon.hypervisor().tracking("vm", "rel", scratch)
    tracking.recover(0, SIZES)
    tracking.begin(1, list(SIZES))
    tracking.recover(1, {"vhdx": SIZE})
    assert daemon.bitmaps() == [
        ("raw", "someone-else"),
        ("raw", "standby-other-7"),
        ("vhdx", "standby-rel-1"),
    ]
    tracking.stop()
    assert daemon.bitmaps() == [("raw", "someone-else"), ("raw", "standby-other-7")]
    tracking.close()


def test_control_socket_is_free_once_nobody_tracks(daemon, scratch):
    hypervisor = daemon.hypervisor()
    first, second = (hypervisor.tracking("vm", name, scratch) for name in ("one", "two"))
    first.close()
    second.recover(0, SIZES)
    second.close()
    other = wait_for(lambda: daemon.hypervisor().describe("vm"), "the socket")
    assert len(other.disks) == len(FORMATS)
