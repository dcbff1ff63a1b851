"""A cut is given up when the guest's own writes take too long: a device of a real QEMU, slowed by its throttle."""

from __future__ import annotations

import pytest

from standby.hypervisor.base import Consistency, CutBroken
from standby.hypervisor.scratch import CutLimits
from tests.hypervisor.processes import SIZE, Daemon, Writer, wait_for
from tests.hypervisor.test_machine import drive, start  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow

LIMITS = CutLimits(reserve=16 << 20, interval=0.02, latency=0.2, latency_looks=5)


class Device:
    """Writes through the guest's device, without a guest."""

    def __init__(self, machine) -> None:
        self._machine = machine

    def writes_a_second(self, rate: int) -> None:
        """0 for no limit."""
        self._machine.control.command(
            "qom-set", path="/objects/slow", property="limits", value={"iops-write": rate}
        )

    def write(self, count: int) -> None:
        for number in range(count):
            self._monitor(f'qemu-io -d /machine/peripheral/data0/virtio-backend "aio_write -q {number}k 1k"')

    def _monitor(self, line: str) -> None:
        refused = self._machine.control.command("human-monitor-command", command_line=line)
        assert refused == ""

    @property
    def written(self) -> int:
        return sum(one["stats"]["wr_operations"] for one in self._machine.control.command("query-blockstats"))


@pytest.fixture
def device(start, scratch):  # noqa: F811
    machine = start(
        *("-object", "throttle-group,id=slow"),
        *drive("a", "qcow2"),
        *("-blockdev", "driver=throttle,throttle-group=slow,node-name=above,file=a"),
        *("-device", "virtio-blk-pci,drive=above,id=data0"),
    )
    tracking = machine.hypervisor(limits=LIMITS).tracking("vm", "rel", scratch)
    tracking.recover(0, {"data0": SIZE})
    tracking.begin(1, ["data0"])
    yield Device(machine), tracking
    tracking.close()


def test_cut_that_slows_the_guests_writes_is_given_up(device):
    device, tracking = device
    device.writes_a_second(10)
    cut = tracking.cut(2, Consistency.CRASH)
    device.write(60)  # each waits for those before it, 0.1 s after 0.1 s
    wait_for(cut.broken, "the watch")
    device.writes_a_second(0)
    wait_for(lambda: device.written == 60, "all writes")
    with pytest.raises(CutBroken, match=r"writes took 0\.[2-9]\d s or more, 5 looks in a row, and 0.2 s are"):
        cut.release()
    # The changes of the cycle that was missed are in the next one.
    tracking.recover(1, {"data0": SIZE})
    with tracking.cut(2, Consistency.CRASH) as cut:
        assert cut.disks["data0"].dirty


def test_a_few_slow_writes_among_quick_ones_are_no_reason(device):
    device, tracking = device
    with tracking.cut(2, Consistency.CRASH) as cut:
        for _ in range(4):
            device.writes_a_second(2)
            device.write(3)
            device.writes_a_second(0)
            before = device.written
            device.write(20)
            wait_for(lambda before=before: device.written >= before + 20, "the writes")
        assert cut.broken() is None


def test_the_clients_of_a_storage_daemon_are_not_watched(tmp_path, scratch):
    daemon = Daemon(tmp_path, {"raw": ("raw", "")})
    try:
        limits = CutLimits(reserve=16 << 20, interval=0.01, latency=0.0, latency_looks=1)
        tracking = daemon.hypervisor(limits=limits).tracking("vm", "rel", scratch)
        tracking.recover(0, {"raw": SIZE})
        tracking.begin(1, ["raw"])
        with Writer(daemon) as writer, tracking.cut(2, Consistency.CRASH) as cut:
            writer.more(500)
            assert cut.broken() is None
        tracking.close()
    finally:
        daemon.stop()
