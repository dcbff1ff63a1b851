"""The demo's guest under the launcher that recovery uses."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from standby.demo import guest, stamps
from standby.hypervisor.agent import GuestAgentSilent
from standby.hypervisor.host import DiskImage, MachineState, NotBooted
from standby.hypervisor.launch import QemuHost, StartedMachine

pytestmark = pytest.mark.guest

BOOT_LIMIT = 60.0


def wait_for(condition: Callable[[], bool], limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


def prefix_on_disk(machine: StartedMachine, images: Mapping[str, DiskImage], work: Path) -> int:
    """The stamps' prefix in the images themselves, read behind the machine's back."""
    areas = []
    for disk in machine.description.disks:
        image, area = images[disk.id], stamps.area_of(disk.size)
        subprocess.run(
            ["qemu-img", "dd", "-U", "-f", image.format, "-O", "raw", f"bs={stamps.AREA}"]
            + [f"if={image.path}", f"of={work / 'whole'}"],
            check=True,
        )
        with (work / "whole").open("rb") as whole:
            whole.seek(area.offset)
            areas.append(whole.read(area.length))
    return stamps.prefix(areas)


def test_a_guest_boots_from_vhdx_and_qcow2_and_stamps_in_one_order(small_guest, images, start, tmp_path):
    machine = start(small_guest.describe("source", stamps_per_second=0), images, small_guest.boot_files)
    times = machine.wait_booted(BOOT_LIMIT)
    assert 0 < times.first_instruction < times.agent < BOOT_LIMIT

    wait_for(lambda: guest.newest_stamp(machine) > 200)
    acknowledged = guest.newest_stamp(machine)
    machine.pause()
    assert machine.state() is MachineState.PAUSED
    found = prefix_on_disk(machine, images, tmp_path)
    assert found >= acknowledged
    machine.resume()
    wait_for(lambda: guest.newest_stamp(machine) > found)

    # Another process finds the machine by its run directory alone, and shuts the guest down.
    again = QemuHost(accelerator="tcg").find(machine.qmp.parent)
    assert (again.tag, again.description, again.state()) == (
        machine.tag,
        machine.description,
        MachineState.RUNNING,
    )
    assert again.power_down(30)
    assert machine.state() is MachineState.GONE
    written = prefix_on_disk(machine, images, tmp_path)
    assert written > found

    # A second boot goes on behind the newest stamp, files and stamps as they were.
    machine = start(small_guest.describe("source", stamps_per_second=50), images, small_guest.boot_files)
    machine.wait_booted(BOOT_LIMIT)
    wait_for(lambda: guest.newest_stamp(machine) > written)
    guest.run(machine, "killall perl")
    assert guest.stamp_prefix(machine) >= written
    assert guest.check_files(machine) == sum(disk.files for disk in small_guest.disks)


@pytest.fixture
def served(raw_guest, tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """The raw disks behind nbdkit's file plugin, read-only: their URIs by disk id."""
    servers = []
    uris = {}
    for index, disk in enumerate(raw_guest.disks):
        socket = tmp_path / f"nbd{index}"
        servers.append(subprocess.Popen(["nbdkit", "-f", "-r", "-U", socket, "file", disk.path]))
        uris[f"disk{index}"] = f"nbd+unix:///?socket={socket}"
        wait_for(socket.exists)
    yield uris
    for server in servers:
        server.terminate()
        server.wait()


def test_a_guest_boots_from_overlays_on_nbd_and_keeps_what_it_read(raw_guest, served, start, tmp_path):
    host = QemuHost(accelerator="tcg")
    overlays = {
        disk: host.overlay(tmp_path / f"{disk}.qcow2", uri, raw_guest.disks[index].size)
        for index, (disk, uri) in enumerate(served.items())
    }
    before = [disk.path.stat().st_mtime_ns for disk in raw_guest.disks]
    machine = start(raw_guest.describe("copy"), overlays, raw_guest.boot_files)
    machine.wait_booted(BOOT_LIMIT)
    assert guest.stamp_prefix(machine) == 0
    assert guest.check_files(machine) == sum(disk.files for disk in raw_guest.disks)
    guest.run(machine, "echo changed >/disk/0/new && sync")
    assert guest.run(machine, "cat /disk/0/new") == b"changed\n"

    machine.screenshot(tmp_path / "screen.png")
    assert (tmp_path / "screen.png").read_bytes().startswith(b"\x89PNG\r\n")

    machine.kill()
    # Copy on read: with the files read once, the overlays hold them all.
    for overlay, disk in zip(overlays.values(), raw_guest.disks, strict=True):
        assert overlay.path.stat().st_blocks * 512 > disk.content
    assert [disk.path.stat().st_mtime_ns for disk in raw_guest.disks] == before


def test_damaged_files_and_failed_commands_are_told(small_guest, images, start):
    machine = start(small_guest.describe("damaged"), images, small_guest.boot_files)
    machine.wait_booted(BOOT_LIMIT)
    done = machine.execute(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"], 10)
    assert done == (3, b"out\n", b"err\n")
    assert machine.execute(["/bin/sh", "-c", "kill -9 $$"], 10).status == -9
    with pytest.raises(GuestAgentSilent, match=r"`/bin/sleep 30` did not end within 0\.1 s"):
        machine.execute(["/bin/sleep", "30"], 0.1)
    with pytest.raises(guest.GuestFailed, match="`false` ended with status 1"):
        guest.run(machine, "false")

    victim = guest.run(machine, "tail -n 1 /disk/1/MANIFEST | cut -c35-").decode().strip()
    guest.run(machine, f"printf x | dd of='/disk/1/{victim}' conv=notrunc bs=1 seek=99")
    with pytest.raises(guest.ContentDamaged, match=f"{victim}: FAILED"):
        guest.check_files(machine)

    machine.kill()
    with pytest.raises(NotBooted, match="its machine ended"):
        machine.wait_booted(1)
