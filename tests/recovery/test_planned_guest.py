"""Planned failover of a real guest that writes as fast as it can: killed at every step, and no write is lost."""

from __future__ import annotations

import pytest

from standby import failpoints
from standby.block.images import Format
from standby.demo import guest, stamps
from standby.hypervisor.host import MachineState
from standby.recovery.image_writer import opened
from standby.replica.journal import ReplicaLog
from standby.replica.plan import last_state
from standby.replication.books import Books
from standby.replication.seal import GuestUp
from standby.replication.states import State
from tests.guest.conftest import BOOT_LIMIT, images, small_guest, start  # noqa: F401 - fixtures
from tests.hypervisor.processes import contents, wait_for
from tests.recovery import sealing
from tests.recovery.killed import DONE, KILLED, Zygote
from tests.recovery.protecting import protect

pytestmark = pytest.mark.guest

SEAL = ["caught_up", "down", "made", "shipped", "noted"]


def test_every_failpoint_of_a_seal_is_killed_at():
    assert {f"seal.{name}" for name in SEAL} == {n for n in failpoints.declared() if n.startswith("seal.")}


def test_killed_at_every_step_it_goes_on_and_loses_no_write(small_guest, images, start, tmp_path):  # noqa: F811
    machine = start(small_guest.describe("web", stamps_per_second=0), images, small_guest.boot_files)
    machine.wait_booted(BOOT_LIMIT)
    store = protect(machine, tmp_path / "books", tmp_path / "store")
    zygote = Zygote(books=tmp_path / "books", qmp=machine.qmp, agent=machine.agent)
    try:
        wait_for(lambda: guest.newest_stamp(machine) > 50, "stamps")
        for point in (*SEAL[:2], "cycle.sealed", SEAL[2], "commit.record_put", *SEAL[3:]):
            name = point if "." in point else f"seal.{point}"
            assert zygote.live("seal", f"{name}=kill") == KILLED, name
            if name == "seal.caught_up":
                assert machine.state() is MachineState.RUNNING
        assert zygote.live("seal") == DONE
    finally:
        zygote.close()
    wait_for(lambda: machine.state() is MachineState.GONE, "the end of its process")

    log = ReplicaLog.read(store, "web")
    sealed = log.point()
    assert last_state(log.records) == sealed
    assert [record.kind for record in log.records].count("seal") == 1
    count = 0
    for identity, image in images.items():
        with opened(image.path, Format(image.format), None, writable=False) as disk:
            assert contents(disk) == contents(log.image(sealed.seq, identity)), identity
    count = stamps.prefix_of_disks([log.image(sealed.seq, identity) for identity in sorted(images)])
    assert count > 50
    books = Books(tmp_path / "books")
    assert books.relationships()[0].status.state is State.SEALED
    books.close()


def test_a_guest_that_does_not_shut_down_is_stopped_only_on_request(small_guest, images, start, tmp_path):  # noqa: F811
    """It has no agent that could be asked, and does not heed its power button."""
    machine = start(small_guest.describe("web", stamps_per_second=0), images, small_guest.boot_files)
    machine.wait_booted(BOOT_LIMIT)
    store = protect(machine, tmp_path / "books", tmp_path / "store")
    guest.run(machine, "killall -STOP init; true")
    done = []
    with pytest.raises(GuestUp, match="--force"):
        sealing.seal(tmp_path / "books", machine.qmp, None, limit=0.5, done=done.append)
    assert machine.state() is MachineState.RUNNING
    before = guest.newest_stamp(machine)
    wait_for(lambda: guest.newest_stamp(machine) > before, "stamps after the refusal")
    sealing.seal(tmp_path / "books", machine.qmp, None, limit=0.5, force=True, done=done.append)
    wait_for(lambda: machine.state() is MachineState.GONE, "the end of its process")
    log = ReplicaLog.read(store, "web")
    for identity, image in images.items():
        with opened(image.path, Format(image.format), None, writable=False) as disk:
            assert contents(disk) == contents(log.image(log.point().seq, identity)), identity
    assert stamps.prefix_of_disks([log.image(log.point().seq, name) for name in sorted(images)]) > before
