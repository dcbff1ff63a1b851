"""What little change costs, and what size does not."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import pytest

from standby.objects.layers import Metered
from standby.replica.format import PAGE
from tests.hypervisor import processes
from tests.hypervisor.processes import Daemon
from tests.replication.rig import Rig

pytestmark = pytest.mark.slow

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine with one disk per format, of a size; all rigs and daemons end with the test."""
    ends = []

    def make(size: int, *formats: str) -> tuple[Daemon, Rig]:
        monkeypatch.setattr(processes, "SIZE", size)
        daemon = Daemon(tmp_path, {name: processes.FORMATS[name] for name in formats})
        rig = Rig(tmp_path, daemon.hypervisor())
        rig.store = Metered(rig.store)
        ends.extend((daemon.stop, rig.close))
        return daemon, rig

    yield make
    for end in reversed(ends):
        end()


def write(daemon: Daemon, name: str, offset: int, data: bytes) -> None:
    disk = processes.NbdDisk(daemon.nbd, name, connections=1)
    disk.write(offset, memoryview(data))
    disk.flush()
    disk.close()


def sent(record) -> int:
    return sum(log.size for disk in record.disks for log in disk.logs)


def test_one_page_written_sends_less_than_16_kib_in_all(machine):
    daemon, rig = machine(64 * MIB, "vhdx", "raw")
    write(daemon, "raw", 0, bytes(range(256)) * 4096)
    rig.protect()
    rig.store.reset()
    write(daemon, "raw", 5 * MIB, random_bytes(PAGE))
    _, record = rig.point()
    assert [disk.id for disk in record.disks if disk.logs] == ["raw"]
    assert PAGE < rig.store.traffic().sent.total() <= 16 << 10


def test_what_is_written_again_as_it_was_is_not_sent(machine):
    daemon, rig = machine(64 * MIB, "raw")
    content = random_bytes(MIB)
    write(daemon, "raw", 0, content)
    rig.protect()
    write(daemon, "raw", 0, content)
    report, record = rig.point()
    assert (report.changed, sent(record)) == (MIB, 0)


def test_an_idle_cycle_sends_no_log_and_is_short(machine):
    _, rig = machine(64 * MIB, "vhdx", "qcow", "raw", "dynamic", "fixed")
    rig.protect()
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        report = rig.source.cycle()
        seconds.append(time.monotonic() - began)
        assert sent(rig.target.ship(rig.books.queue(rig.id)[0])) == 0
        assert report.changed == 0
    # The quickest of five: what the cycle costs, not what else this machine does.
    assert min(seconds) < 0.1


def test_a_gibibyte_of_zeros_costs_no_data(machine):
    daemon, rig = machine(1 << 30, "raw")
    for offset in range(0, 1 << 30, 16 * MIB):
        write(daemon, "raw", offset, bytes(16 * MIB))
    rig.protect()
    assert sum(sent(record) for record in rig.seen.records) == 0
    # The same where data becomes zeros again: rows, and no bytes.
    write(daemon, "raw", 0, random_bytes(MIB))
    rig.point()
    write(daemon, "raw", 0, bytes(MIB))
    _, record = rig.point()
    (log,) = record.disks[0].logs
    assert (log.data, log.rows) == (0, 16)


LIMIT = 512 * MIB

THIN = """
import sys
from pathlib import Path
from standby.hypervisor.qemu import QemuHypervisor, QemuMachine
from tests.replication.rig import Rig
from standby.replica.verify import verify_point
from standby.replica.journal import ReplicaLog
folder = Path(sys.argv[1])
rig = Rig(folder, QemuHypervisor({"vm": QemuMachine(qmp=folder / "qmp", nbd=folder / "served")}))
rig.protect()
for _ in range(2):
    print("write", flush=True)
    sys.stdin.readline()
    rig.point()
log = ReplicaLog.read(rig.store, "vm")
proof = verify_point(log, log.point())
assert proof.findings == () and proof.bytes == 1 << 40, proof
rig.close()
# Not getrusage: its peak is that of the process before exec too, and the tests' own is large.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024, flush=True)
"""


def test_a_thin_disk_of_a_tebibyte_is_protected_in_little_memory(machine, tmp_path):
    daemon, rig = machine(1 << 40, "qcow")
    rig.close()
    for gib in range(0, 1024, 64):
        write(daemon, "qcow", gib << 30, random_bytes(MIB))
    agent = subprocess.Popen(
        [sys.executable, "-c", THIN, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for number in range(2):
        assert agent.stdout.readline() == "write\n"
        for gib in range(0, 1024, 16):
            write(daemon, "qcow", (gib << 30) + number * MIB, random_bytes(PAGE))
        agent.stdin.write("\n")
        agent.stdin.flush()
    peak = int(agent.stdout.readline())
    assert agent.wait(60) == 0
    assert peak < LIMIT, f"the agent took {peak >> 20} MiB"


def random_bytes(count: int) -> bytes:
    return random.Random(count).randbytes(count)
