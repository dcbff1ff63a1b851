"""Starting, finding and ending machines that run no guest: what matters here is whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from standby.hypervisor.base import MachineNotFound
from standby.hypervisor.host import DiskImage, MachineState, NotOurs, StartFailed, StartRefused
from standby.hypervisor.launch import QemuHost, StartedMachine
from standby.hypervisor.qmp import Qmp
from standby.records import DiskDescription, MachineDescription

pytestmark = pytest.mark.slow

HOST = QemuHost(accelerator="tcg")
MACHINE = MachineDescription(
    name="empty",
    uuid="6a7c7a52-4d3a-4c0e-9d53-000000000002",
    memory=16 << 20,
    cpus=1,
    firmware="bios",
    disks=(DiskDescription(id="disk0", size=1 << 20, format="raw"),),
)


@pytest.fixture
def disks(tmp_path: Path) -> dict[str, DiskImage]:
    return {"disk0": image(tmp_path / "disk0.raw")}


def image(path: Path) -> DiskImage:
    path.write_bytes(bytes(1 << 20))
    return DiskImage(path, "raw")


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[StartedMachine, StartedMachine]]:
    """Two machines of one description."""
    machines = [
        HOST.start(MACHINE, {"disk0": image(tmp_path / name)}, {}, tmp_path / f"run-{name}") for name in "ab"
    ]
    yield machines[0], machines[1]
    for machine in machines:
        machine.kill()


def test_ending_one_machine_leaves_its_namesake_alone(two):
    mine, other = two
    assert mine.tag != other.tag
    mine.discard()
    assert mine.state() is MachineState.GONE
    assert not mine.qmp.parent.exists()
    assert other.state() is MachineState.RUNNING


def test_a_record_that_points_at_a_foreign_machine_does_it_no_harm(two, tmp_path):
    mine, other = two
    mine.kill()
    record = msgspec.json.decode((mine.qmp.parent / "machine.json").read_bytes())
    record["process"] = msgspec.to_builtins(other.process)
    (mine.qmp.parent / "machine.json").write_bytes(msgspec.json.encode(record))
    with pytest.raises(NotOurs, match="was not started by standby"):
        HOST.find(mine.qmp.parent).kill()

    (mine.qmp.parent / "control.sock").unlink(missing_ok=True)
    (mine.qmp.parent / "control.sock").symlink_to(other.qmp.parent / "control.sock")
    with pytest.raises(NotOurs, match="calls itself 'standby:"):
        HOST.find(mine.qmp.parent).power_down(1)
    assert other.state() is MachineState.RUNNING


def test_a_starter_that_died_early_leaves_a_machine_that_is_found(two):
    mine, _ = two
    path = mine.qmp.parent / "machine.json"
    record = msgspec.json.decode(path.read_bytes())
    record["process"] = None
    path.write_bytes(msgspec.json.encode(record))
    found = HOST.find(mine.qmp.parent)
    assert found.process == mine.process
    found.kill()
    assert mine.state() is MachineState.GONE


def test_a_second_control_socket_is_free_for_others(two):
    mine, _ = two
    other_client = Qmp("empty", mine.qmp)
    assert mine.state() is MachineState.RUNNING
    other_client.close()


def test_nothing_is_found_where_nothing_was_started(tmp_path):
    with pytest.raises(MachineNotFound):
        HOST.find(tmp_path)


def test_qemus_refusal_is_told_and_leaves_nothing(disks, tmp_path):
    broken = {"disk0": DiskImage(disks["disk0"].path, "qcow2")}
    with pytest.raises(StartFailed, match="not in qcow2 format"):
        HOST.start(MACHINE, broken, {}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_directory_is_used_once_and_short(disks, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(StartRefused, match="cannot be made: File exists"):
        HOST.start(MACHINE, disks, {}, tmp_path / "run")
    with pytest.raises(StartRefused, match="too long for the sockets"):
        HOST.start(MACHINE, disks, {}, tmp_path / ("x" * 100))


def test_an_overlay_names_its_backing(tmp_path):
    made = HOST.overlay(tmp_path / "o.qcow2", "nbd+unix:///?socket=/nowhere", 5 << 20)
    assert made == DiskImage(tmp_path / "o.qcow2", "qcow2", "nbd+unix:///?socket=/nowhere")
    with pytest.raises(StartFailed, match="cannot create the overlay"):
        HOST.overlay(tmp_path / "no" / "o.qcow2", "nbd+unix:///?socket=/nowhere", 5 << 20)
