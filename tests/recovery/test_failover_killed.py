"""A test failover killed -9 at every failpoint, then cleaned up by another process: nothing is left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from standby import failpoints
from standby.recovery import failover, run_directory
from standby.recovery.failover import Phase
from tests.recovery.conftest import HOST, Replica
from tests.recovery.killed import DONE, KILLED, Zygote
from tests.recovery.machines import assert_nothing_left, bootless, processes

pytestmark = pytest.mark.slow

STEPS = 7
STARTING = [
    ("run_directory.made", 1),
    ("run_directory.named", 1),
    *((f"steps.{name}", time) for time in range(1, STEPS + 1) for name in ("started", "did")),
    ("steps.done", 2),
    ("steps.done", 4),
    ("steps.done", 6),
    *((f"failover.{name}", time) for time in (1, 2) for name in ("boot_file_fetched", "overlay_made")),
]
CLEANING = ["steps.undoing", "steps.undid", "steps.undone"]


@pytest.fixture
def zygote(replica: Replica, tmp_path: Path, root: Path) -> Iterator[Zygote]:
    bootless(replica, tmp_path)
    zygote = Zygote(store=replica.root, root=root)
    yield zygote
    zygote.close()


def test_every_failpoint_of_a_test_failover_is_killed_at():
    killed = {name for name, _ in STARTING} | {*CLEANING, "run_directory.gone"}
    wanted = {n for n in failpoints.declared() if n.split(".")[0] in ("steps", "failover", "run_directory")}
    assert killed == wanted


def test_killed_while_starting_at_any_failpoint_it_is_cleaned_up(replica, root, zygote):
    for point, time_ in STARTING:
        assert zygote.live("start", f"{point}=kill@{time_}") == KILLED, (
            f"{point} is not reached {time_} times"
        )
        runs = run_directory.recoveries(root)
        if point == "run_directory.made":
            assert runs == []
            assert [path.name[:5] for path in root.glob(".new*")] == [".new-"]
            # What never got its name is swept by whoever looks for room next.
            with run_directory.root_lock(root):
                pass
        else:
            assert len(runs) == 1
            failover.clean_up(runs[0], HOST)
        assert_nothing_left(replica, root)


def test_killed_at_any_failpoint_it_goes_on_to_the_end(replica, root, zygote):
    """One test, one life after the other, each killed one failpoint further."""
    assert zygote.live("start", "steps.started=kill@1") == KILLED
    [run] = run_directory.recoveries(root)
    for number in range(2, STEPS + 1):
        for name in ("started", "did"):
            # What went before is asked and not done again, but for `check`: that is made at every turn.
            status = zygote.live("resume", f"steps.{name}=kill@2", run=run)
            assert status == KILLED, (number, name)
    assert zygote.live("resume", run=run) == DONE
    found = failover.look(run, HOST)
    assert found.journal.complete
    assert found.phase is Phase.RUNNING
    assert found.held
    assert found.problems == ()
    [hold] = replica.head.holds
    assert hold.seq == found.seq
    failover.clean_up(run, HOST)
    assert_nothing_left(replica, root)


def test_killed_while_cleaning_up_it_is_taken_up_again(replica, root, zygote):
    assert zygote.live("start") == DONE
    [run] = run_directory.recoveries(root)
    assert processes(root)
    began = time.monotonic()
    turn = 0
    while (
        status := zygote.live("clean up", f"{CLEANING[turn % 3]}=kill,run_directory.gone=kill", run=run)
    ) == KILLED:
        turn += 1
        assert time.monotonic() - began < 60
        if not run.exists():
            break
        assert failover.look(run, HOST).phase is Phase.CLEANING_UP
        with pytest.raises(failover.CleanUpBegun):
            failover.mend(run)
        with pytest.raises(failover.CleanUpBegun):
            failover.resume(run, HOST)
    assert status == KILLED
    assert turn > 2 * STEPS
    assert [path.name for path in root.glob(".gone*")] == [f".gone-{run.name}"]
    failover.clean_up(run, HOST)
    assert_nothing_left(replica, root)
