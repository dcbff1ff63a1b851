"""docs/recovery.md, command by command as it stands there, with a store that this test fills."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pytest

from standby.demo.initramfs import newest_kernel
from standby.objects.address import open_store
from standby.objects.directory import DirectoryStore
from standby.records import BootFile, DiskDescription, MachineDescription
from standby.replica import boot
from standby.replica.journal import Place, ReplicaLog
from standby.replica.writer import attach, create
from tests.cli import reference
from tests.cli.conftest import PROGRAM
from tests.support.replicas import REPLICA, FixedClock, ModelDisk, commit_point, new_id

PAGE = reference.DOC.with_name("recovery.md")
DISK = 8 << 20


class Block(NamedTuple):
    """Commands of the page. where: `any`, `directory`, `s3`, or `never` for what a test cannot run."""

    where: str
    commands: str


def blocks() -> list[Block]:
    found = re.findall(r"(?:^<!-- run: (\w+) -->\n)?^```\n(.*?)```$", PAGE.read_text(), re.M | re.S)
    return [Block(*one) for one in found]


def test_the_page_says_of_each_block_whether_it_is_run():
    assert {block.where for block in blocks()} == {"never", "any", "directory", "s3"}


def test_the_page_uses_every_command_that_needs_the_store_only():
    text = "\n".join(block.commands for block in blocks() if block.where != "never")
    for verb in ("list", "points", "show", "verify", "restore", "serve", "files", "copy", "scrub"):
        assert f"standby replica {verb} " in text
    for verb in ("test", "list", "cleanup"):
        assert f"standby failover {verb}" in text


def fill(address: str, folder: Path) -> ModelDisk:
    """Replica `web`: a machine that boots a kernel by itself, with one disk that holds an ext4."""
    store = open_store(address)
    create(store, "web", replica=REPLICA, origin="host-a", clock=FixedClock())
    writer = attach(store, "web", owner="agent", clock=FixedClock(), new_id=new_id)
    tree = folder / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/hostname").write_text("web\n")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(DISK)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, image], check=True)
    disk = ModelDisk("disk0", DISK)
    disk.write(0, image.read_bytes())
    files = {"kernel": newest_kernel().image, "initrd": folder / "initrd"}
    files["initrd"].write_bytes(b"no initrd at all")
    machine = MachineDescription(
        name="web",
        uuid="0194b5a0-0000-7000-8000-00000000000a",
        memory=96 << 20,
        cpus=1,
        firmware="kernel",
        disks=(DiskDescription(id="disk0", size=DISK, format="raw"),),
        boot_files=tuple(
            BootFile(role=role, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
            for role, data in ((role, path.read_bytes()) for role, path in files.items())
        ),
        kernel_cmdline="console=ttyS0 quiet",
    )
    boot.put(Place(store, "web"), machine.boot_files, files)
    for _ in range(2):
        commit_point(writer, [disk], folder, machine=machine)
    return disk


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the page is followed: short, as Unix sockets want it."""
    path = Path(tempfile.mkdtemp(prefix="page-"))
    yield path
    shutil.rmtree(path)


# Single files are read on the directory only: each look boots a small machine, whatever the store.
def follow(where: str, folder: Path, given: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the page's blocks in one shell. given: what stands for the page's store and its '...'."""
    script = "".join(block.commands for block in blocks() if block.where in ("any", where))
    for name, value in given.items():
        script, count = re.subn(rf"^export {name}=.*$", f"export {name}='{value}'", script, flags=re.M)
        assert count == 1, name
    assert "'...'" not in script
    environment = {name: value for name, value in os.environ.items() if name[:4] not in ("AWS_", "AZUR")}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-x", "-c", script],
        cwd=folder,
        env=environment
        | {"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "STANDBY_ACCEL": "tcg", "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("where", ["directory", "s3"])
def test_someone_with_only_the_store_gets_everything_back(where, folder, tmp_path, request):
    if where == "directory":
        given = {"STORE": str(tmp_path / "store")}
        DirectoryStore(tmp_path / "store", create=True)
    else:
        place = request.getfixturevalue("moto").place()
        given = {"STORE": place.address, **place.environment}
    with mock.patch.dict(os.environ, given):
        disk = fill(given["STORE"], tmp_path)
    done = follow(where, folder, given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "disk0.raw").read_bytes() == disk.bytes
    if where == "directory":
        assert (folder / "recovered/etc/hostname").read_text() == "web\n"
    for name, driver in (("disk0.vhdx", "vhdx"), ("disk0.vhd", "vpc"), ("disk0-fixed.vhd", "vpc")):
        subprocess.run(
            ["qemu-img", "compare", "-f", driver, "-F", "raw", folder / name, folder / "disk0.raw"],
            check=True,
        )
    with mock.patch.dict(os.environ, given):
        log = ReplicaLog.read(open_store(given["STORE"]), "web")
    assert log.head.holds == ()
    assert [record.kind for record in log.records] == ["fence", "point", "point"], "nothing was written"
