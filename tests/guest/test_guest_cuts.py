"""Cuts of a real guest that writes all the while, frozen by its own agent and not."""

from __future__ import annotations

import time

import pytest

from standby.demo import guest, stamps
from standby.hypervisor.agent import GuestAgent, GuestAgentSilent
from standby.hypervisor.base import Consistency
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from standby.hypervisor.scratch import CutLimits
from tests.hypervisor.cycle import create, recover, take
from tests.hypervisor.processes import wait_for

pytestmark = pytest.mark.guest

LIMITS = CutLimits(reserve=64 << 20)


@pytest.fixture
def machine(small_guest, images, start):
    machine = start(small_guest.describe("source", stamps_per_second=0), images, small_guest.boot_files)
    machine.wait_booted(60)
    return machine


@pytest.fixture
def tracking(machine, tmp_path):
    hypervisor = QemuHypervisor(
        {"vm": QemuMachine(machine.qmp, machine.agent)}, limits=LIMITS, freeze_limit=2.0
    )
    tracking = hypervisor.tracking("vm", "rel", tmp_path)
    yield tracking
    tracking.close()


def stamps_in(images):
    """The stamps' prefix over the disks in order."""
    areas = []
    for name in sorted(images):
        area = stamps.area_of(len(images[name]))
        areas.append(bytes(images[name][area.offset : area.offset + area.length]))
    return stamps.prefix(areas)


def goes_on(machine):
    """The guest still completes writes."""
    before = guest.newest_stamp(machine)
    wait_for(lambda: guest.newest_stamp(machine) > before, "a stamp")


def answers(machine):
    """Whether the guest's agent answers now."""
    try:
        GuestAgent("vm", machine.agent, limit=0.5).close()
    except GuestAgentSilent:
        return False
    return True


def test_a_guest_is_copied_exactly_while_it_writes(machine, tracking, tmp_path):
    sizes = {disk.id: disk.size for disk in machine.description.disks}
    copies = create(tmp_path, sizes)
    recover(tracking, copies)
    found = []
    for consistency in (Consistency.CRASH, Consistency.APPLICATION, Consistency.CRASH):
        reached = []
        take(
            tracking,
            copies,
            1,
            consistency,
            look=lambda cut, reached=reached: reached.append(cut.consistency),
        )
        assert reached == [consistency]
        found.append(stamps_in(copies.contents()))
        goes_on(machine)
    assert found == sorted(set(found))
    assert found[0] > 0


def test_agent_that_hangs_costs_consistency_and_nothing_else(machine, tracking, tmp_path):
    tracking.recover(0, sizes := {disk.id: disk.size for disk in machine.description.disks})
    tracking.begin(1, list(sizes))
    # Once this command was answered, the agent is stopped, and let go on 8 seconds later.
    stop = "(sleep 0.5; kill -STOP $(pidof qemu-ga); sleep 8; kill -CONT $(pidof qemu-ga))"
    guest.run(machine, f"{stop} >/dev/null 2>&1 </dev/null &")
    wait_for(lambda: not answers(machine), "the agent to hang")
    started = time.monotonic()
    with tracking.cut(2, Consistency.APPLICATION) as cut:
        assert cut.consistency is Consistency.CRASH
        assert "silent" in cut.note
    assert time.monotonic() - started < 10
    wait_for(lambda: answers(machine), "the agent to go on")
    goes_on(machine)


def test_guest_that_a_dead_process_left_frozen_is_thawed(machine, tracking, tmp_path):
    agent = GuestAgent("vm", machine.agent)
    agent.freeze(10)
    agent.close()
    (tmp_path / "standby-rel-frozen").touch()
    tracking.recover(0, {})
    agent = GuestAgent("vm", machine.agent)
    assert agent.fsfreeze_status() == "thawed"
    agent.close()
    goes_on(machine)
