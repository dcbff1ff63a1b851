"""Exports in every format against a disk whose content is known, refused, interrupted and damaged."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from standby import failpoints
from standby.block import images
from standby.block.images import Format
from standby.errors import Damaged, InvalidRequest
from standby.recovery import export as exporting
from standby.recovery.export import PARTIAL, ExportDiffers, ExportTaken, export
from standby.replica.format import BLOCK, PAGE
from tests.recovery.conftest import NAME, Replica
from tests.support.replicas import ModelDisk, new_id

pytestmark = pytest.mark.slow

SIZE = 96 * BLOCK + 3 * PAGE
RANDOM = random.Random(7)


@pytest.fixture
def disk(replica: Replica) -> ModelDisk:
    """Random bytes, zeros written over data, holes, and data up to the very end; three points of it."""
    disk = ModelDisk("vda", SIZE)
    disk.write(0, RANDOM.randbytes(20 * BLOCK))
    disk.write(SIZE - 5000, RANDOM.randbytes(5000))
    replica.commit(disk)
    disk.write(4 * BLOCK + 700, bytes(3 * BLOCK))
    disk.write(40 * BLOCK + PAGE, b"text " * 9000)
    replica.commit(disk)
    disk.write(7 * BLOCK, RANDOM.randbytes(2 * PAGE))
    replica.commit(disk)
    return disk


def model(tmp_path: Path, disk: ModelDisk) -> Path:
    path = tmp_path / "model"
    path.write_bytes(disk.bytes)
    return path


def same(path: Path, driver: str, model: Path) -> None:
    assert images.describe(path, driver).virtual_size == model.stat().st_size
    subprocess.run(["qemu-img", "compare", "-f", driver, "-F", "raw", path, model], check=True)


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("format", Format)
def test_an_export_is_the_disk_byte_for_byte(tmp_path, replica, disk, format, verify):
    path, told = tmp_path / "out", []
    log = replica.log()
    done = export(log, log.point(), "vda", path, format, progress=told.append, verify=verify)
    same(path, format.driver, model(tmp_path, disk))
    assert (done.path, done.size, done.held) == (path, SIZE, True)
    assert 18 * BLOCK < done.written < 20 * BLOCK, "17 blocks, and some pages"
    assert sum(told) == SIZE * (1 + verify)
    assert replica.head.holds == ()
    assert [one.name for one in tmp_path.glob("out*")] == ["out"]
    if format is not Format.VHD_FIXED:
        assert path.stat().st_blocks * 512 < 60 * BLOCK + (8 << 20), "holes stay holes"
    if format is Format.RAW:
        assert path.read_bytes() == disk.bytes
        assert path.stat().st_blocks * 512 < 40 * BLOCK, "holes stay holes"
    if format is Format.VHD_FIXED:
        # What other readers of VHD take the size from: the footer.
        assert path.read_bytes()[:SIZE] == disk.bytes
        assert path.read_bytes()[-512:-504] == b"conectix"
    if format in (Format.QCOW2, Format.VHDX):
        subprocess.run(["qemu-img", "check", "-q", "-f", format.driver, path], check=True)


def test_an_older_point_is_exported_as_it_was(tmp_path, replica):
    disk = ModelDisk("vda", SIZE)
    disk.write(100, b"before" * 30_000)
    seq = replica.commit(disk)
    before = disk.bytes
    disk.write(0, b"after" * 50_000)
    replica.commit(disk)
    log = replica.log()
    export(log, log.point(str(seq)), "vda", tmp_path / "out", Format.RAW)
    assert (tmp_path / "out").read_bytes() == before


def test_an_existing_target_is_refused_and_left_alone(tmp_path, replica, disk):
    log, path = replica.log(), tmp_path / "out"
    path.write_text("mine")
    with pytest.raises(ExportTaken, match="exists already"):
        export(log, log.point(), "vda", path, Format.RAW)
    assert path.read_text() == "mine"
    assert not path.with_name("out" + PARTIAL).exists()
    export(log, log.point(), "vda", path, Format.RAW, overwrite=True)
    assert path.read_bytes() == disk.bytes


def test_an_overwritten_target_stays_whole_until_the_new_one_is(tmp_path, replica, disk):
    log, path = replica.log(), tmp_path / "out"
    path.write_text("mine")
    replica.damage("vda", 0)
    with pytest.raises(Damaged):
        export(log, log.point(), "vda", path, Format.RAW, overwrite=True)
    assert path.read_text() == "mine"


def test_what_comes_to_exist_meanwhile_is_not_replaced(tmp_path, replica, disk):
    log, path = replica.log(), tmp_path / "out"

    def somebody_else(_count: int) -> None:
        path.write_text("theirs")

    with pytest.raises(ExportTaken, match="meanwhile"):
        export(log, log.point(), "vda", path, Format.RAW, progress=somebody_else)
    assert path.read_text() == "theirs"
    assert [one.name for one in tmp_path.glob("out*")] == ["out"]


def test_an_interrupted_export_is_told_and_removed_only_when_asked(tmp_path, replica, disk):
    log, path = replica.log(), tmp_path / "out"
    partial = path.with_name("out" + PARTIAL)
    partial.write_text("a part")
    with pytest.raises(ExportTaken, match="interrupted, or is at work"):
        export(log, log.point(), "vda", path, Format.RAW)
    assert partial.read_text() == "a part"
    export(log, log.point(), "vda", path, Format.RAW, overwrite=True)
    assert path.read_bytes() == disk.bytes
    assert not partial.exists()


CHILD = """
import sys
from pathlib import Path
from standby.block.images import Format
from standby.objects.address import open_store
from standby.recovery.export import export
from standby.replica.journal import ReplicaLog
store, name, path, format = sys.argv[1:]
log = ReplicaLog.read(open_store(store), name)
export(log, log.point(), "vda", Path(path), Format(format))
"""


@pytest.mark.parametrize(
    ("point", "format"),
    [("created", "raw"), ("copied", "raw"), ("copied", "vhdx"), ("named", "qcow2")],
)
def test_a_killed_export_leaves_no_finished_file_but_a_whole_one(tmp_path, replica, disk, point, format):
    path = tmp_path / "out"
    killed = subprocess.run(
        [sys.executable, "-c", CHILD, replica.root, NAME, path, format],
        env=os.environ | {"STANDBY_FAILPOINT": f"export.{point}=kill"},
        check=False,
    )
    assert killed.returncode == -9
    names = [one.name for one in tmp_path.glob("out*")]
    if point == "named":
        assert names == ["out"]
        same(path, format, model(tmp_path, disk))
    else:
        assert names == ["out" + PARTIAL]


@pytest.mark.parametrize("point", ["export.created", "export.copied"])
def test_an_export_that_is_broken_off_cleans_up(tmp_path, replica, disk, point):
    log = replica.log()
    failpoints.arm(f"{point}=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            export(log, log.point(), "vda", tmp_path / "out", Format.VHDX)
    finally:
        failpoints.arm("")
    assert list(tmp_path.glob("out*")) == []
    assert replica.head.holds == ()


@pytest.mark.parametrize("content", ["random", "text"])
@pytest.mark.parametrize("format", [Format.RAW, Format.QCOW2])
def test_damage_is_told_by_log_and_block_and_nothing_is_finished(tmp_path, replica, format, content):
    disk = ModelDisk("vda", SIZE)
    if content == "random":
        disk.write(8 * BLOCK, RANDOM.randbytes(10 * BLOCK))
    else:
        disk.write(8 * BLOCK, "".join(f"{n} " for n in range(100_000)).encode())
    replica.commit(disk)
    replica.damage("vda", into=3 * BLOCK + 100 if content == "random" else 1000)
    log = replica.log()
    wanted = r"\.hrl: block 11 \(byte 720896\)" if content == "random" else r"\.hrl: block 8 \(byte 524288\)"
    with pytest.raises(Damaged, match=wanted):
        export(log, log.point(), "vda", tmp_path / "out", format)
    assert list(tmp_path.glob("out*")) == []
    assert replica.head.holds == ()


def test_storage_that_does_not_keep_what_it_is_given_is_found_by_verify(tmp_path, replica, disk, monkeypatch):
    log, compare = replica.log(), exporting._compare

    def decay(image, written, target, workers, progress):
        with target.open("r+b") as file:
            file.seek(9 * BLOCK + 77)
            byte = file.read(1)[0]
            file.seek(9 * BLOCK + 77)
            file.write(bytes([byte ^ 1]))
        compare(image, written, target, workers, progress)

    monkeypatch.setattr(exporting, "_compare", decay)
    with pytest.raises(ExportDiffers, match=r"block 9 \(byte 589824\) reads back"):
        export(log, log.point(), "vda", tmp_path / "out", Format.RAW, verify=True)
    assert list(tmp_path.glob("out*")) == []


def test_data_lost_as_a_hole_is_found_by_verify(tmp_path, replica, disk, monkeypatch):
    log, compare = replica.log(), exporting._compare

    def forget(image, written, target, workers, progress):
        os.truncate(target, 0)
        os.truncate(target, SIZE)
        compare(image, written, target, workers, progress)

    monkeypatch.setattr(exporting, "_compare", forget)
    with pytest.raises(ExportDiffers, match=r"block 0 \(byte 0\)"):
        export(log, log.point(), "vda", tmp_path / "out", Format.RAW, verify=True)


def test_requests_that_cannot_be_met_are_refused_with_nothing_left(tmp_path, replica, disk):
    log = replica.log()
    with pytest.raises(InvalidRequest, match="no such directory"):
        export(log, log.point(), "vda", tmp_path / "none" / "out", Format.RAW)
    with pytest.raises(InvalidRequest, match="has no disk vdz"):
        export(log, log.point(), "vdz", tmp_path / "out", Format.RAW)
    assert list(tmp_path.glob("out*")) == []
    assert replica.head.holds == ()


@pytest.mark.parametrize(
    ("format", "verify"), [(Format.QCOW2, True), (Format.VHDX, False), (Format.RAW, True)]
)
def test_a_thin_terabyte_is_exported_as_thin(tmp_path, replica, format, verify):
    size = 1 << 40
    disk = ModelDisk("vda", 64 * BLOCK)
    disk.write(BLOCK, b"small" * BLOCK)
    disk.size = size
    seq = replica.commit(disk)
    log = replica.log()
    done = export(log, log.point(str(seq)), "vda", tmp_path / "out", format, verify=verify)
    assert done.size == size
    assert (tmp_path / "out").stat().st_blocks * 512 < 64 << 20


def test_a_vhd_has_an_end_and_what_is_larger_is_refused(tmp_path, replica):
    disk = ModelDisk("vda", BLOCK)
    disk.write(0, new_id().encode())
    disk.size = 3 << 40
    replica.commit(disk)
    log = replica.log()
    with pytest.raises(InvalidRequest, match="VHD"):
        export(log, log.point(), "vda", tmp_path / "out", Format.VHD_DYNAMIC)
    assert list(tmp_path.glob("out*")) == []
