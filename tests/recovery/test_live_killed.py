"""A failover killed -9 at every failpoint: it goes on to the end, or is cancelled and nothing is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from standby import failpoints
from standby.recovery import hydrate, live, live_view, run_directory
from standby.recovery.live_view import Phase
from standby.recovery.machine_steps import whole_mark
from tests.recovery.conftest import HOST, Replica
from tests.recovery.killed import DONE, KILLED, Zygote
from tests.recovery.machines import assert_nothing_left, bootless, processes

pytestmark = pytest.mark.slow

STEPS = 10
ATTACH = ["head_read", "head_swapped", "listed", "fence_put", "done"]
STARTING = [
    ("run_directory.named", 1),
    *((f"steps.{name}", time) for time in range(1, STEPS + 1) for name in ("started", "did")),
    *((f"attach.{name}", 1) for name in ATTACH),
    ("failover.overlay_made", 2),
]
HYDRATING = ["flushed", "marked", "closed", "released"]


@pytest.fixture
def points(replica: Replica, tmp_path: Path) -> tuple[int, int]:
    return bootless(replica, tmp_path), bootless(replica, tmp_path)


@pytest.fixture
def zygote(replica: Replica, points, root: Path) -> Iterator[Zygote]:
    zygote = Zygote(store=replica.root, root=root)
    yield zygote
    zygote.close()


def test_every_failpoint_of_a_failover_is_killed_at():
    killed = {*(f"hydrate.{name}" for name in HYDRATING), "live.committed", "live.wished"}
    wanted = {name for name in failpoints.declared() if name.split(".")[0] in ("live", "hydrate")}
    assert wanted == killed


def test_killed_while_starting_it_is_cancelled(replica, root, zygote):
    for point, count in STARTING:
        assert zygote.live("fail over", f"{point}=kill@{count}") == KILLED, f"{point}, {count}"
        [run] = run_directory.recoveries(root)
        live.cancel(run, HOST)
        assert_nothing_left(replica, root)


def test_killed_at_every_step_it_goes_on_and_keeps_its_one_fence(replica, root, zygote, points):
    assert zygote.live("fail over", "steps.started=kill@1") == KILLED
    [run] = run_directory.recoveries(root)
    for number in range(2, STEPS + 1):
        for name in ("started", "did"):
            # What went before is asked and not done again, but for `check`: that is made at every turn.
            assert zygote.live("go on", f"steps.{name}=kill@2", run=run) == KILLED, (number, name)
    assert zygote.live("go on", run=run) == DONE
    found = live_view.look(run, HOST)
    assert (found.phase, found.seq, found.problems) == (Phase.FAILED_OVER, points[1], ())
    owners = {record.writer for record in replica.log().records if record.kind == "fence"}
    assert len(owners) == 2
    assert len(processes(root)) == 3, "a machine and two servers, each once"

    # Another point, killed on the way back and on the way there.
    for point in ("steps.undoing=kill@2", "steps.undid=kill@4", "live.wished=kill", "steps.did=kill@6"):
        assert zygote.live("change point", point, run=run, point=points[0]) == KILLED, point
    assert live_view.look(run, HOST).phase is Phase.FAILING_OVER
    assert zygote.live("change point", run=run, point=points[0]) == DONE
    assert live_view.look(run, HOST).seq == points[0]

    assert zygote.live("commit", "live.committed=kill", run=run) == KILLED
    assert live_view.look(run, HOST).phase is Phase.COMMITTED
    for name in HYDRATING:
        assert zygote.live("hydrate", f"hydrate.{name}=kill", run=run) == KILLED, name
    assert zygote.live("hydrate", run=run) == DONE
    found = live_view.look(run, HOST)
    assert found.whole == found.disks == ("disk0", "disk1")
    assert found.problems == ()
    assert replica.head.holds == ()
    [machine] = processes(root)
    assert machine.startswith("qemu-system")

    # Whole, it needs neither store nor servers to start again.
    live_view.machine(run, HOST).kill()
    away = replica.root.rename(replica.root.with_name("away"))
    assert live.resume(run, HOST).problems == ()
    assert len(processes(root)) == 1
    away.rename(replica.root)
    live_view.machine(run, HOST).kill()
    live.clean_up(run, HOST, lose=True)
    assert_nothing_left(replica, root)


def test_killed_while_cancelling_it_is_taken_up_again(replica, root, zygote):
    assert zygote.live("fail over") == DONE
    [run] = run_directory.recoveries(root)
    names = ["steps.undoing", "steps.undid", "steps.undone"]
    began, turn = time.monotonic(), 0
    while zygote.live("cancel", f"{names[turn % 3]}=kill", run=run) == KILLED:
        turn += 1
        assert time.monotonic() - began < 60
        assert live_view.look(run, HOST).phase is Phase.CANCELLING
        with pytest.raises(live.NotFailedOver):
            live.commit(run, HOST)
    assert turn > 2 * STEPS
    assert_nothing_left(replica, root)


def test_a_disk_is_whole_only_when_that_was_marked(replica, root, points):
    """A machine that ends behind the last fetched byte and before the mark starts with its server again."""
    found = live.start(live.Request(str(replica.root), "web", boot_limit=None, confirmed=True), root, HOST)
    failpoints.arm("hydrate.flushed=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            hydrate.hydrate(found.run, HOST)
    finally:
        failpoints.arm("")
    assert not whole_mark(found.run, 0).exists()
    live_view.machine(found.run, HOST).kill()
    again = live.resume(found.run, HOST)
    assert again.whole == ()
    [line] = [one for one in processes(root) if one.startswith("qemu-system")]
    assert '"node-name": "backing0"' in line
    assert hydrate.hydrate(found.run, HOST).whole == ("disk0", "disk1")
    live.cancel(found.run, HOST)
    assert_nothing_left(replica, root)
