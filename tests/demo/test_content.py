from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from standby.demo import content, stamps
from standby.demo.content import DiskPlan, NoContent

pytestmark = pytest.mark.slow

MIB = 1 << 20
FORMATS = ("raw", "qcow2", "vhdx", "vpc")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with files, one too small, one with a name that md5sum would escape, and a link."""
    root = tmp_path / "root"
    (root / "b" / "c").mkdir(parents=True)
    for name in ("a", "b/c/two words", "b/d", "b/small", "e\\f", "z"):
        (root / name).write_bytes(os.urandom(100 if name == "b/small" else 300_000))
    (root / "b" / "link").symlink_to("d")
    return root


def test_every_format_has_the_planned_size_files_and_an_empty_stamp_area(root, tmp_path):
    plans = [DiskPlan(format, MIB) for format in FORMATS]
    disks = content.build(tmp_path / "cache", plans, [root])
    for disk in disks:
        described = subprocess.run(
            ["qemu-img", "info", "--output=json", "-f", disk.format, disk.path],
            check=True,
            capture_output=True,
        )
        assert json.loads(described.stdout)["virtual-size"] == disk.size
        raw, out = disk.path.with_suffix(".check"), tmp_path / f"out-{disk.format}"
        subprocess.run(["qemu-img", "convert", "-f", disk.format, "-O", "raw", disk.path, raw], check=True)
        area = stamps.area_of(disk.size)
        assert stamps.prefix([raw.read_bytes()[area.offset : area.end]]) == 0
        subprocess.run(["e2fsck", "-fn", raw], check=True, capture_output=True)
        out.mkdir()
        subprocess.run(["debugfs", "-R", f"rdump / {out}", raw], check=True, capture_output=True)
        subprocess.run(["md5sum", "-c", "--quiet", "MANIFEST"], cwd=out, check=True)
        lines = (out / "MANIFEST").read_text().splitlines()
        assert len(lines) == disk.files
        assert disk.content >= MIB
    # Four good files of 300 kB: the tree is gone through again and again.
    assert [disk.files for disk in disks] == [4, 4, 4, 4]


def test_the_same_plan_is_built_once_and_changed_files_anew(root, tmp_path):
    plans = [DiskPlan("raw", MIB)]
    first = content.build(tmp_path / "cache", plans, [root])
    made = first[0].path.stat().st_mtime_ns
    again = content.build(tmp_path / "cache", plans, [root])
    assert (again, again[0].path.stat().st_mtime_ns) == (first, made)
    (root / "a").write_bytes(os.urandom(300_001))
    assert content.build(tmp_path / "cache", plans, [root])[0].path != first[0].path
    assert sorted(path.name for path in (tmp_path / "cache").iterdir() if "building" in path.name) == []


def test_an_empty_tree_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoContent, match="no readable file"):
        content.build(tmp_path / "cache", [DiskPlan("raw", MIB)], [tmp_path / "empty"])
