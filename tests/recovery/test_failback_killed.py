"""A failback killed -9 at every failpoint: it goes on, or is cancelled and the old disks are as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from standby import failpoints
from standby.hypervisor.host import MachineState
from standby.recovery import failback, live, live_view, run_directory
from standby.recovery.failback_steps import OldDisk, OldDiskChanged
from standby.recovery.live import NotFailedOver
from standby.recovery.live_view import Phase
from standby.recovery.prerequisites import NotReady
from standby.recovery.split_brain import SourceUnknown
from standby.replica.documents import DiskState
from standby.replica.format import BLOCK
from standby.replica.writer import Draft
from tests.recovery.conftest import HOST, Replica, encrypted_replica
from tests.recovery.killed import DONE, KILLED, Zygote
from tests.recovery.machines import SIZE, assert_nothing_left, bootless, processes
from tests.support.replicas import ModelDisk, new_id

pytestmark = pytest.mark.slow

STEPS = 10
SYNCHRONIZED = 3
"""Steps until it waits to be completed."""


class Old:
    """The machine's old disks, which differ from the replica, and what the replica's newest point holds."""

    def __init__(self, replica: Replica, folder: Path) -> None:
        self.replica = replica
        self.first = bootless(replica, folder)
        self.disks = [
            OldDisk(id=f"disk{index}", path=str(folder / f"old{index}.img"), format="raw") for index in (0, 1)
        ]
        self.contents = [
            bytes([9]) * BLOCK + bytes(SIZE - BLOCK),
            bytes([2]) * (3 * BLOCK) + bytes(SIZE - 3 * BLOCK),
        ]
        for disk, content in zip(self.disks, self.contents, strict=True):
            Path(disk.path).write_bytes(content)
        self.wanted = [bytes([index + 1]) * (3 * BLOCK) + bytes(SIZE - 3 * BLOCK) for index in (0, 1)]

    def seal(self) -> None:
        """The recovered machine's last word: a write to disk1, and a seal."""
        machine = self.replica.log().point().machine
        last = ModelDisk("disk1", SIZE)
        last.write(5 * BLOCK, b"last write")
        self.wanted[1] = self.wanted[1][: 5 * BLOCK] + b"last write" + self.wanted[1][5 * BLOCK + 10 :]
        log = self.replica.writer.upload(last.log(self.replica.spool / "last.hrl"))
        disks = (DiskState(id="disk0", size=SIZE), DiskState(id="disk1", size=SIZE, logs=(log,)))
        self.replica.writer.commit(
            Draft("seal", new_id(), "2026-11-24T09:00:00+00:00", disks, machine=machine)
        )

    @property
    def untouched(self) -> bool:
        return [Path(disk.path).read_bytes() for disk in self.disks] == self.contents

    @property
    def brought(self) -> bool:
        """Whether the old disks are what the newest point holds."""
        return [Path(disk.path).read_bytes() for disk in self.disks] == self.wanted

    def request(self) -> failback.Request:
        return failback.Request(
            str(self.replica.root), "web", self.disks, boot_limit=None, key=self.replica.key
        )


@pytest.fixture
def old(replica: Replica, tmp_path: Path) -> Old:
    return Old(replica, tmp_path)


@pytest.fixture
def zygote(replica: Replica, old: Old, root: Path) -> Iterator[Zygote]:
    disks = json.dumps([[disk.id, disk.path, disk.format] for disk in reversed(old.disks)])
    zygote = Zygote(store=replica.root, root=root, old=disks)
    yield zygote
    zygote.close()


def test_every_failpoint_of_a_failback_is_killed_at():
    killed = {"compared", "brought", "told", "merging", "merged", "marked", "ended"}
    wanted = {name for name in failpoints.declared() if name.startswith("failback.")}
    assert {f"failback.{name}" for name in killed} == wanted


def test_killed_while_synchronizing_it_is_cancelled(replica, root, zygote, old):
    points = [(f"steps.{name}", count) for count in range(1, SYNCHRONIZED + 1) for name in ("started", "did")]
    for point, count in [*points, ("failback.compared", 1), ("failback.compared", 2)]:
        assert zygote.live("fail back", f"{point}=kill@{count}") == KILLED, f"{point}, {count}"
        [run] = run_directory.recoveries(root)
        live.cancel(run, HOST)
        assert_nothing_left(replica, root)
        assert old.untouched


def test_killed_at_every_step_it_goes_on_to_the_old_disks(replica, root, zygote, old):
    assert zygote.live("fail back", "failback.compared=kill@2") == KILLED
    [run] = run_directory.recoveries(root)
    assert live_view.look(run, HOST).phase is Phase.SYNCHRONIZING
    assert zygote.live("go on", run=run) == DONE
    assert live_view.look(run, HOST).phase is Phase.WAITING
    with pytest.raises(SourceUnknown):
        failback.complete(run, HOST)
    assert live_view.look(run, HOST).phase is Phase.WAITING
    with pytest.raises(NotFailedOver):
        failback.commit(run, HOST)

    old.seal()
    assert zygote.live("complete", "failback.told=kill", run=run) == KILLED
    for number in range(SYNCHRONIZED + 1, STEPS + 1):
        for name in ("started", "did"):
            assert zygote.live("go on", f"steps.{name}=kill@2", run=run) == KILLED, (number, name)
    assert zygote.live("go on", run=run) == DONE
    assert live_view.look(run, HOST).phase is Phase.FAILED_OVER
    assert old.untouched
    assert replica.head.holds

    for point in ("merging", "merged", "marked"):
        assert zygote.live("commit back", f"failback.{point}=kill", run=run) == KILLED, point
        assert live_view.look(run, HOST).phase is Phase.FAILED_OVER
        with pytest.raises(NotFailedOver, match="merged"):
            live.cancel(run, HOST)
        if point == "merged":
            # Stopped between the two: the guest goes on only once it is noted which disk counts.
            assert live_view.look(run, HOST).machine is MachineState.PAUSED
            live.mend(run, HOST)
            assert (run / "0.merged").exists()
            assert live_view.look(run, HOST).machine is MachineState.RUNNING
            # A machine that ends there starts on that old disk: the one that was named first.
            live_view.machine(run, HOST).kill()
            live.resume(run, HOST)
            [line] = [one for one in processes(root) if one.startswith("qemu-system")]
            assert "0.qcow2" not in line
            assert "1.qcow2" in line
    assert zygote.live("commit back", "failback.ended=kill", run=run) == KILLED
    assert live_view.look(run, HOST).phase is Phase.COMMITTED
    assert zygote.live("commit back", run=run) == DONE
    assert list(run.glob("*.qcow2")) == []
    assert replica.head.holds == ()
    assert live_view.look(run, HOST).machine is MachineState.RUNNING
    live_view.machine(run, HOST).kill()
    assert old.brought
    assert live.resume(run, HOST).machine is MachineState.RUNNING
    live_view.machine(run, HOST).kill()
    live.clean_up(run, HOST, lose=True)
    assert_nothing_left(replica, root)
    assert old.brought


def test_killed_in_the_final_delta_it_is_done_again(replica, root, zygote, old):
    assert zygote.live("fail back") == DONE
    [run] = run_directory.recoveries(root)
    old.seal()
    for count in (1, 2):
        assert zygote.live("complete", f"failback.brought=kill@{count}", run=run) == KILLED
    assert zygote.live("complete", run=run) == DONE
    # Cancelled at the last moment: the old disks are as they were, and the machine may go on where it ran.
    live.cancel(run, HOST)
    assert old.untouched
    assert_nothing_left(replica, root)
    assert replica.head.owner.startswith("cancelled standby failover")


def test_an_old_disk_that_somebody_used_is_noticed(replica, root, old):
    waiting = failback.start(old.request(), root, HOST)
    assert waiting.journal.row("compare").facts["fetched"] == 3 * BLOCK
    with Path(old.disks[1].path).open("r+b") as file:
        file.write(b"booted at home")
    old.seal()
    with pytest.raises(OldDiskChanged, match="old1.img"):
        failback.complete(waiting.run, HOST)
    assert processes(root) == []
    live.cancel(waiting.run, HOST)
    assert_nothing_left(replica, root)


def test_disks_that_are_not_those_of_the_point_are_refused_all_at_once(replica, root, old, tmp_path):
    (tmp_path / "small.img").write_bytes(bytes(BLOCK))
    wrong = [
        OldDisk(id="disk0", path=str(tmp_path / "small.img"), format="raw"),
        OldDisk(id="other", path=str(tmp_path / "small.img"), format="raw"),
    ]
    with pytest.raises(NotReady) as caught:
        failback.start(old.request()._replace(old=wrong), root, HOST)
    assert {finding.subject for finding in caught.value.findings} == {
        "disk disk0",
        "disk disk1",
        "disk other",
    }
    gone = [OldDisk(id=disk.id, path=disk.path + ".gone", format="raw") for disk in old.disks]
    with pytest.raises(NotReady, match="no file"):
        failback.start(old.request()._replace(old=gone), root, HOST)
    assert_nothing_left(replica, root)
    assert old.untouched


@encrypted_replica
def test_an_encrypted_replica_is_failed_back_to(root, old):
    waiting = failback.start(old.request(), root, HOST)
    assert waiting.journal.row("compare").facts["fetched"] == 3 * BLOCK, "hashes are keyed, and still compare"
    done = failback.complete(waiting.run, HOST, confirmed=True)
    assert failback.commit(done.run, HOST).phase is Phase.COMMITTED
    live_view.machine(done.run, HOST).kill()
    assert old.brought
    live.clean_up(done.run, HOST, lose=True)


def test_its_point_is_the_newest_and_stays_so(root, old):
    waiting = failback.start(old.request(), root, HOST)
    for refused in (
        lambda: live.change_point(waiting.run, str(old.first), HOST),
        lambda: live.commit(waiting.run, HOST),
    ):
        with pytest.raises(NotFailedOver, match="failback"):
            refused()
    live.cancel(waiting.run, HOST)
