"""Files out of a point: a real partition table and ext4, read by a real guestfish."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from standby.cli.app import run
from standby.errors import Damaged, InvalidRequest, NeedsPerson
from standby.recovery import appliance, guestfish
from standby.recovery.appliance import FileSystem
from standby.recovery.files import open_files
from standby.recovery.guestfish import ApplianceFailed
from standby.replica.format import BLOCK
from tests.recovery.conftest import NAME, Replica
from tests.support.replicas import ModelDisk

START = 1 << 20
SIZE = 16 << 20
WHEN = 1_577_934_245


@pytest.fixture
def tree(tmp_path) -> Path:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "home/ann").mkdir(parents=True)
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (tree / "home/ann/big").write_bytes(os.urandom(1 << 20))
    (tree / "home/ann/link").symlink_to("../../etc/hosts")
    (tree / "shortcut").symlink_to("/etc")
    with (tree / "home/ann/sparse").open("wb") as file:
        file.truncate(4 << 20)
        file.seek(2 << 20)
        file.write(b"x")
    os.setxattr(tree / "etc/hosts", "user.note", b"kept")
    (tree / "etc/hosts").chmod(0o640)
    os.utime(tree / "etc/hosts", (WHEN, WHEN))
    if os.geteuid() == 0:
        os.chown(tree / "etc/hosts", 1000, 1001)
    return tree


@pytest.fixture
def disk(tmp_path, tree, replica: Replica) -> ModelDisk:
    """A partitioned disk: an ext4 with the tree, and a partition that holds nothing."""
    image = tmp_path / "ext4"
    with image.open("wb") as file:
        file.truncate(SIZE - 2 * START)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image], check=True)
    disk = ModelDisk("vda", SIZE)
    entries = [(START, SIZE - 2 * START), (SIZE - START, START)]
    table = b"".join(struct.pack("<8sII", b"\0\0\0\0\x83", at // 512, size // 512) for at, size in entries)
    disk.write(446, table.ljust(64, b"\0") + b"\x55\xaa")
    disk.write(START, image.read_bytes())
    blank = ModelDisk("vdb", SIZE)
    replica.commit(disk, blank)
    return disk


@pytest.mark.slow
def test_files_are_listed_and_copied_as_they_were(tmp_path, replica, disk, tree):
    log, to = replica.log(), tmp_path / "out"
    with open_files(log, log.point(), ["vda", "vdb"]) as files:
        assert FileSystem("vda1", "ext4", True) in files.file_systems
        assert [one for one in files.file_systems if one.name == "vda2" and one.mounted] == []
        assert [one.path for one in files.look("vda1")] == [
            *(f"vda1/{name}" for name in ("etc", "home", "lost+found", "shortcut"))
        ]
        (hosts,) = files.look("/vda1/etc/hosts")
        assert (hosts.kind, hosts.size, hosts.mode, hosts.modified) == ("file", 20, "-rw-r-----", WHEN)
        (link,) = files.look("vda1/shortcut")
        assert (link.kind, link.target) == ("link", "/etc")
        for wrong in ("", "vdb1/etc", "vda1/../..", "vda1/nothing", "vda2/x"):
            with pytest.raises(InvalidRequest):
                files.look(wrong)
        with pytest.raises(InvalidRequest, match="is a link to /etc"):
            files.look("vda1/shortcut/passwd")

        assert files.copy(["vda1/home", "vda1/etc/hosts"], to) == [to / "home", to / "hosts"]
        assert to.stat().st_mode & 0o777 == 0o700
        with pytest.raises(InvalidRequest, match="exists already"):
            files.copy(["vda1/home"], to)
        with pytest.raises(InvalidRequest, match="two of the paths"):
            files.copy(["vda1/etc/hosts", "vda1/etc/hosts"], tmp_path / "other")
        assert replica.log().head.holds
    assert not replica.log().head.holds
    assert (to / "home/ann/big").read_bytes() == (tree / "home/ann/big").read_bytes()
    assert (to / "home/ann/sparse").read_bytes() == (tree / "home/ann/sparse").read_bytes()
    assert (to / "home/ann/sparse").stat().st_blocks < 64
    assert (to / "home/ann/link").readlink() == Path("../../etc/hosts")
    was, now = (tree / "etc/hosts").stat(), (to / "hosts").stat()
    assert (now.st_mode, now.st_mtime, now.st_uid, now.st_gid) == (
        *(was.st_mode, was.st_mtime, was.st_uid, was.st_gid),
    )
    assert os.getxattr(to / "hosts", "user.note") == b"kept"


@pytest.mark.slow
def test_damage_is_told_by_its_block_and_not_given_out(tmp_path, replica, disk, tree, capsys):
    content, big = disk.bytes, (tree / "home/ann/big").read_bytes()
    at = content.index(big[512 << 10 : (512 << 10) + 512])
    log = replica.log()
    (reference,) = log.point().disk("vda").logs
    path = replica.root / NAME / reference.name
    stored = bytearray(path.read_bytes())
    # Random bytes are stored as they are.
    found = stored.index(content[at : at + 64])
    stored[found] ^= 1
    path.write_bytes(stored)
    words = ["replica", "copy", log.place.store.url, NAME, "vda1/home", "--to", str(tmp_path / "out")]
    assert run(words) == Damaged.exit_status
    assert f"block {at // BLOCK}" in " ".join(capsys.readouterr().err.split())
    assert not replica.log().head.holds


def test_what_is_missing_is_named_with_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NeedsPerson, match="guestfish") as told:
        appliance.Appliance([("vda", tmp_path / "socket")], tmp_path)
    assert "apt install --no-install-recommends guestfish util-linux fuse3" in told.value.hint


@pytest.mark.slow
def test_an_appliance_that_cannot_start_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("LIBGUESTFS_HV", "/bin/false")
    with pytest.raises(ApplianceFailed, match="run"):
        appliance.Appliance([("vda", tmp_path / "socket")], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("/dev/sda1", "vda1"),
        ("/dev/sdb", "nvme0"),
        ("/dev/sdb2", "nvme0p2"),
        ("/dev/sdc1", "sdc1"),
        ("/dev/vg/root", "vg-root"),
        ("/dev/sdvg/root", "sdvg-root"),
        ("btrfsvol:/dev/sda1/home", "vda1-home"),
    ],
)
def test_file_systems_are_named_after_the_machines_disks(device, name):
    assert appliance._name(device, ["vda", "nvme0"]) == name


def test_names_are_quoted_as_guestfish_reads_them():
    assert guestfish._quoted('a "b" \\c') == '"a \\"b\\" \\\\c"'
    with pytest.raises(ApplianceFailed):
        guestfish._quoted("a\nb")
