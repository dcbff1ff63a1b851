"""A guest's files changed in a failover: a real ext4, a real guestfish, a real failover that does not boot."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import msgspec
import pytest

from standby import failpoints
from standby.demo.initramfs import newest_kernel
from standby.hypervisor.host import Network
from standby.records import BootFile, DiskDescription, MachineDescription, NicDescription
from standby.recovery import fixup, fixup_step, live, machine_steps, run_directory
from standby.recovery.fixup_plan import Edit
from standby.recovery.fixup_wish import FixUp, FixUpRefused, parse
from standby.recovery.guestfish import ApplianceFailed
from standby.recovery.steps import State
from tests.recovery.conftest import HOST, Replica
from tests.recovery.machines import assert_nothing_left, bootless
from tests.support.replicas import ModelDisk

SIZE = 8 << 20
MAC = "52:54:00:00:00:05"
FILES = {
    "etc/os-release": 'NAME="Debian GNU/Linux"\nID=debian\nVERSION_ID="12"\n',
    "etc/debian_version": "12\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/hostname": "web\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 web\n",
    "etc/netplan/50.yaml": "network:\n  version: 2\n  ethernets:\n    ens3: {dhcp4: true} # ours\n",
    "etc/network/interfaces": "auto ens4\niface ens4 inet dhcp\n",
    "etc/NetworkManager/system-connections/c.nmconnection": (
        "[connection]\nid=c\ntype=ethernet\ninterface-name=ens5\n\n[ipv4]\nmethod=auto\n"
    ),
    "etc/systemd/network/10.network": f"[Match]\nMACAddress={MAC}\n\n[Network]\nDHCP=yes\n",
}
WISH = parse(
    "web-dr",
    [f"{card}=10.9.0.{n}/24" for n, card in enumerate(("ens3", "ens4", "ens5", MAC), 2)],
)


def guest(replica: Replica, folder: Path) -> int:
    """A point of a machine whose disk has all four systems that configure a network."""
    tree, image = folder / "tree", folder / "ext4"
    for name, text in FILES.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    (tree / "bin").mkdir()
    (tree / "etc/NetworkManager/system-connections/c.nmconnection").chmod(0o600)
    with image.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image], check=True)
    bootless(replica, folder)
    machine = replica.log().point().machine
    disk = ModelDisk("vda", SIZE)
    disk.write(0, image.read_bytes())
    kernel = newest_kernel().image
    data = kernel.read_bytes()
    machine = msgspec.structs.replace(
        machine,
        disks=(DiskDescription(id="vda", size=SIZE, format="raw"),),
        boot_files=(BootFile(role="kernel", sha256=hashlib.sha256(data).hexdigest(), size=len(data)),),
        nics=(NicDescription(mac=MAC, network="lan"),),
    )
    assert isinstance(machine, MachineDescription)
    return replica.commit_machine(machine, {"kernel": kernel}, disk)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_failover_changes_its_guest_and_not_the_point(replica, root, tmp_path):
    guest(replica, tmp_path)
    before = {path: path.read_bytes() for path in replica.root.rglob("*") if path.is_file()}
    request = live.Request(
        str(replica.root), "web", boot_limit=None, confirmed=True, network=Network.RESTRICTED, fix_up=WISH
    )
    found = live.start(request, root, HOST)
    assert found.journal.row(machine_steps.FIX_UP).facts == {"files": 6}
    raw = tmp_path / "raw"
    overlay = machine_steps.overlay(found.run, 0)
    subprocess.run(["qemu-img", "convert", "-U", "-O", "raw", overlay, raw], check=True)

    def now(path: str) -> str:
        command = ["debugfs", "-R", f"cat /{path}", raw]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert now("etc/hostname") == "web-dr\n"
    assert now("etc/hosts") == "127.0.0.1 localhost\n127.0.1.1\tweb-dr\n"
    for number, name in enumerate(list(FILES)[-4:], 2):
        assert f"10.9.0.{number}/24" in now(name), name
        assert now(name) != FILES[name]
    assert "# ours" in now("etc/netplan/50.yaml")
    check = subprocess.run(["e2fsck", "-fn", raw], check=False, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
    for path, data in before.items():
        # The fence and the hold are in the head.
        assert path.name == "replica.json" or path.read_bytes() == data, path
    live.cancel(found.run, HOST)
    assert_nothing_left(replica, root)


@pytest.fixture
def fake_guestfish(monkeypatch) -> list[int]:
    """A fake in guestfish's place, for what stands around it: it marks the images. What it was called for."""
    calls: list[int] = []

    def change(images, wish, cards):
        calls.append(len(images))
        for image in images:
            subprocess.run(["qemu-img", "bench", "-c", "1", "-w", "-f", "qcow2", image], check=True)
            assert b"half" not in image.read_bytes()
            with image.open("ab") as file:
                file.write(b"half")
        return [Edit("/etc/hostname", None, "web-dr\n", False)]

    monkeypatch.setattr(fixup, "change", change)
    return calls


@pytest.mark.slow
@pytest.mark.parametrize("at", ["fixup.changed", "fixup.replaced"])
def test_interrupted_it_changes_the_guest_again_from_the_point(replica, root, tmp_path, fake_guestfish, at):
    bootless(replica, tmp_path)
    request = live.Request(
        str(replica.root), "web", boot_limit=None, confirmed=True, fix_up=FixUp(hostname="web-dr")
    )
    failpoints.arm(f"{at}=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            live.start(request, root, HOST)
    finally:
        failpoints.arm("")
    [run] = run_directory.recoveries(root)
    assert fixup_step.changed(run) is None
    found = live.resume(run, HOST)
    assert found.journal.row(machine_steps.FIX_UP).state is State.DONE
    assert fake_guestfish == [2, 2]
    assert fixup_step.changed(run) == {"files": 1}
    live.resume(run, HOST)
    assert fake_guestfish == [2, 2], "what is changed stays so"
    live.cancel(run, HOST)
    assert_nothing_left(replica, root)


@pytest.mark.slow
def test_a_card_that_the_machine_has_not_is_refused_before_the_fence(replica, root, tmp_path):
    bootless(replica, tmp_path)
    wish = parse("", [f"{MAC}=10.0.0.1/8"])
    request = live.Request(str(replica.root), "web", boot_limit=None, confirmed=True, fix_up=wish)
    with pytest.raises(FixUpRefused, match="no such card"):
        live.start(request, root, HOST)
    assert replica.head.epoch == 1


class FakeGuestfish:
    """Answers as guestfish does for guests that are not at hand here: Windows, LUKS, damaged file systems."""

    def __init__(self, answers: dict[str, list[str]]) -> None:
        self.answers = {"list-filesystems": ["/dev/sda: ext4"], "-inspect-os": ["/dev/sda"], **answers}
        self.asked: list[str] = []

    def ask(self, *words: str) -> list[str]:
        self.asked.append(words[0])
        if words[0] == "mount" and "mount" not in self.answers:
            error = ApplianceFailed("it ended", subject="guestfish")
            error.said = "structure needs cleaning"
            raise error
        return self.answers.get(words[0], [])


LINUX = {
    "inspect-get-type": ["linux"],
    "inspect-get-distro": ["debian"],
    "inspect-get-mountpoints": ["/: /dev/sda"],
}


@pytest.mark.parametrize(
    ("answers", "says", "found"),
    [
        ({"inspect-get-type": ["windows"]}, "its system is windows", "/dev/sda: ext4"),
        (
            {"list-filesystems": ["/dev/sda1: crypto_LUKS"], "-inspect-os": []},
            "it is encrypted",
            "/dev/sda1: crypto_LUKS",
        ),
        ({"list-filesystems": [], "-inspect-os": []}, "no system is found", "no file system"),
        ({"-inspect-os": ["/dev/sda1", "/dev/sda2"]}, "several systems", "/dev/sda: ext4"),
        ({**LINUX, "inspect-get-distro": ["nixos"]}, "its system is nixos", "/dev/sda: ext4"),
        (LINUX, "structure needs cleaning", "/dev/sda: ext4"),
        (
            {
                **LINUX,
                "mount": [],
                "vfs-type": ["ext4"],
                "tune2fs-l": ["Filesystem state: clean with errors"],
            },
            "/dev/sda has errors",
            "clean with errors",
        ),
    ],
)
def test_a_guest_of_another_kind_is_named_with_what_was_found(answers, says, found):
    fish = FakeGuestfish(answers)
    with pytest.raises(FixUpRefused, match=says) as told:
        fixup._mount(fish)
    assert found in told.value.tried
    assert "nothing was changed" in told.value.tried
    assert "--set-hostname" in told.value.hint
    assert "upload" not in fish.asked
