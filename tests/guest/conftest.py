"""Real guests for tests: their parts are built once and kept; every test starts machines of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from standby.demo import guest
from standby.demo.content import DiskPlan
from standby.demo.guest import Guest
from standby.hypervisor.host import DiskImage
from standby.hypervisor.launch import QemuHost, StartedMachine

MIB = 1 << 20
CONTENT = 24 * MIB
BOOT_LIMIT = 60.0
"""Seconds for a boot that takes 4 on a quiet machine."""

Start = Callable[..., StartedMachine]


@pytest.fixture(scope="session")
def small_guest(pytestconfig: pytest.Config) -> Guest:
    """Two disks, VHDX and qcow2, of 24 MiB of files each."""
    cache = Path(pytestconfig.cache.mkdir("guest"))
    return guest.build(cache, [DiskPlan("vhdx", CONTENT), DiskPlan("qcow2", CONTENT)])


@pytest.fixture(scope="session")
def raw_guest(pytestconfig: pytest.Config) -> Guest:
    """The same files on two raw disks."""
    cache = Path(pytestconfig.cache.mkdir("guest"))
    return guest.build(cache, [DiskPlan("raw", CONTENT), DiskPlan("raw", CONTENT)])


@pytest.fixture
def images(small_guest: Guest, tmp_path: Path) -> Mapping[str, DiskImage]:
    """This test's own copies of the small guest's disks."""
    copies = [disk.copy(tmp_path / disk.path.name) for disk in small_guest.disks]
    return {f"disk{index}": DiskImage(copy.path, copy.format) for index, copy in enumerate(copies)}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """QemuHost.start in a run directory of this test; what still runs at its end is ended."""
    machines: list[StartedMachine] = []

    def start_one(description, disks, boot_files, **options) -> StartedMachine:
        run = tmp_path / f"run{len(machines)}"
        machine = QemuHost(accelerator="tcg").start(description, disks, boot_files, run, **options)
        machines.append(machine)
        return machine

    yield start_one
    for machine in machines:
        machine.kill()
