"""A real guest booted from its replica, looked at, hurt, mended and taken away."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from standby.demo import guest, stamps
from standby.demo.guest import Guest
from standby.hypervisor.host import MachineState
from standby.recovery import failover, serving
from standby.recovery.failover import Phase, Request
from standby.replica.format import BLOCK, PAGE
from tests.guest.conftest import BOOT_LIMIT, raw_guest  # noqa: F401 - a fixture
from tests.recovery.conftest import HOST, Replica, encrypted_replica
from tests.recovery.machines import assert_nothing_left
from tests.support.replicas import ModelDisk

pytestmark = pytest.mark.guest

AT_POINT, LATER = 37, 61


def stamp(disks: list[ModelDisk], first: int, last: int) -> None:
    """What the guest's own writer would have written."""
    for number in range(first, last + 1):
        disk, offset = stamps.place(number, len(disks), stamps.AREA // stamps.SLOT)
        area = stamps.area_of(disks[disk].size)
        disks[disk].write(area.offset + offset, stamps.stamp(number, len(disks)))


@pytest.fixture
def protected(raw_guest: Guest, replica: Replica) -> int:  # noqa: F811
    """The guest's replica, with a point after its first stamps and a newer one after more; the first's number."""
    disks = []
    for index, built in enumerate(raw_guest.disks):
        disk = ModelDisk(f"disk{index}", built.size)
        data = built.path.read_bytes()
        # Only blocks with data, as a source scans them.
        for offset in range(0, built.size, 1 << 20):
            part = data[offset : offset + (1 << 20)]
            if any(part):
                disk.write(offset, part)
        disks.append(disk)
    machine = raw_guest.describe("web")
    stamp(disks, 1, AT_POINT)
    seq = replica.commit_machine(machine, raw_guest.boot_files, *disks)
    stamp(disks, AT_POINT + 1, LATER)
    replica.commit_machine(machine, raw_guest.boot_files, *disks)
    return seq


@encrypted_replica
def test_a_guest_boots_from_its_replica_and_survives_a_server_that_dies(
    raw_guest: Guest,  # noqa: F811
    replica: Replica,
    root: Path,
    protected: int,
):
    request = Request(str(replica.root), "web", point=str(protected), boot_limit=BOOT_LIMIT, key=replica.key)
    test = failover.start(request, root, HOST)
    assert (test.phase, test.seq, test.held, test.problems) == (Phase.RUNNING, protected, True, ())
    assert 0 < test.times.first_instruction < test.times.agent < BOOT_LIMIT
    print(f"first instruction {test.times.first_instruction:.2f} s, agent {test.times.agent:.2f} s")  # noqa: T201
    machine = failover.machine(test.run, HOST)
    assert guest.stamp_prefix(machine) == AT_POINT

    victim = failover.sources(test.run)[0]
    process = serving.process_of(victim)
    assert process
    assert process.kill(str(victim.socket), 10)
    [problem] = failover.look(test.run, HOST).problems
    assert problem.subject == "disk disk0"
    assert problem.blocks
    with ThreadPoolExecutor(1) as pool:
        # Most files were not read yet: the guest waits for the server, and goes on when it is back.
        checking = pool.submit(guest.check_files, machine)
        assert failover.mend(test.run) == ["disk0"]
        assert checking.result(120) == sum(disk.files for disk in raw_guest.disks)
    assert failover.look(test.run, HOST).problems == ()
    assert machine.state() is MachineState.RUNNING

    # It writes to its own overlay; the replica stays what it was.
    guest.run(machine, "echo changed >/disk/0/new && sync")
    failover.clean_up(test.run, HOST)
    assert machine.state() is MachineState.GONE
    assert_nothing_left(replica, root)
    log = replica.log()
    assert stamps.prefix_of_disks([log.image(protected, f"disk{n}") for n in range(2)]) == AT_POINT
    assert stamps.prefix_of_disks([log.image(log.point().seq, f"disk{n}") for n in range(2)]) == LATER


def test_a_damaged_block_is_a_read_error_in_the_guest_and_told(
    raw_guest: Guest,  # noqa: F811
    replica: Replica,
    root: Path,
    protected: int,
):
    log, blocks = replica.damage_middle(protected, "disk1")
    request = Request(str(replica.root), "web", point=str(protected), boot_limit=BOOT_LIMIT)
    test = failover.start(request, root, HOST)
    machine = failover.machine(test.run, HOST)
    outcomes = set()
    for block in [*blocks, max(blocks) + 1]:
        read = f"dd if=/dev/vdb bs=4k skip={block * 16 + 3} count=1 of=/run/page"
        done = machine.execute(["sh", "-c", read], 30)
        outcomes.add(done.status)
        if done.status:
            assert b"Input/output error" in done.errors
        else:
            # Blocks of the frame that the damage did not reach, and the one behind it.
            page = guest.run(machine, "cat /run/page")
            with raw_guest.disks[1].path.open("rb") as content:
                content.seek(block * BLOCK + 3 * PAGE)
                assert page == content.read(PAGE), f"block {block}"
    assert outcomes == {0, 1}

    problems = failover.look(test.run, HOST).problems
    assert problems
    assert all(log in problem.subject and "disk disk1" in problem.subject for problem in problems)
    failover.clean_up(test.run, HOST)
    assert_nothing_left(replica, root)
