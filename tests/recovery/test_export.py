"""A point as an image file, in every format, compared byte for byte."""

from __future__ import annotations

import subprocess

import pytest

from standby import failpoints
from standby.block.images import Format
from standby.errors import Damaged, InvalidRequest
from standby.recovery.export import ExportTaken, export
from standby.replica.journal import ReplicaLog
from tests.recovery.conftest import damage

pytestmark = pytest.mark.slow


def run(store, path, format=Format.RAW, **options):
    log = ReplicaLog.read(store, "web")
    return export(log, log.point(), "vda", path, format, **options)


@pytest.mark.parametrize("format", list(Format))
def test_an_exported_image_reads_as_the_disk_did(store, disk, tmp_path, format):
    told = []
    done = run(store, tmp_path / "image", format, verify=True, progress=told.append)
    (tmp_path / "model").write_bytes(disk.bytes)
    compared = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", format.driver, tmp_path / "model", tmp_path / "image"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert done.size == disk.size
    assert sum(told) >= disk.size
    assert ReplicaLog.read(store, "web").head.holds == ()


def test_an_existing_file_is_kept_unless_told(store, disk, tmp_path):
    (tmp_path / "image").write_bytes(b"precious")
    with pytest.raises(ExportTaken, match=r"image: it exists already.*choose another name"):
        run(store, tmp_path / "image")
    assert (tmp_path / "image").read_bytes() == b"precious"
    run(store, tmp_path / "image", overwrite=True)
    assert (tmp_path / "image").read_bytes() == disk.bytes


def test_damage_is_named_and_leaves_no_image(store, disk, tmp_path):
    damage(store, tmp_path)
    with pytest.raises(Damaged, match=r"\.hrl: "):
        run(store, tmp_path / "image")
    assert not list(tmp_path.glob("image*"))


def test_a_directory_that_is_missing_is_named(store, disk, tmp_path):
    with pytest.raises(InvalidRequest, match="nowhere: there is no such directory"):
        run(store, tmp_path / "nowhere" / "image")


@pytest.mark.parametrize("name", [n for n in failpoints.declared() if n.startswith("export.")])
def test_an_interrupted_export_never_looks_finished(store, disk, tmp_path, name):
    failpoints.arm(f"{name}=raise")
    try:
        with pytest.raises(failpoints.FailpointHit):
            run(store, tmp_path / "image")
    finally:
        failpoints.arm("")
    finished = tmp_path / "image"
    assert not finished.exists() or finished.read_bytes() == disk.bytes
    run(store, tmp_path / "image", overwrite=True)
    assert finished.read_bytes() == disk.bytes
