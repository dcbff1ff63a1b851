"""Replicas written by every version so far are opened and proved for ever (docs/format.md)."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from standby.objects.directory import DirectoryStore
from standby.replica import boot
from standby.replica.journal import ReplicaLog
from standby.replica.keys import KeyFile, Passphrase
from standby.replica.verify import verify_logs, verify_point
from standby.replica.writer import attach
from tests.support.replicas import FixedClock, ModelDisk, commit_point, new_id, read_whole

GOLDEN = sorted((Path(__file__).parent / "golden").iterdir())


@pytest.fixture(params=GOLDEN, ids=lambda path: path.name)
def golden(request, tmp_path):
    """A copy of a golden replica: its store, the SHA-256 of every disk at every point, and its key if it has one."""
    shutil.copytree(request.param, tmp_path / "golden")
    expected = json.loads((tmp_path / "golden" / "expected.json").read_text())
    key = None
    if (tmp_path / "golden" / "key").exists():
        (tmp_path / "golden" / "key").chmod(0o600)  # version control keeps no modes
        key = KeyFile(tmp_path / "golden" / "key")
    return DirectoryStore(tmp_path / "golden" / "store"), expected, key


def test_every_point_reads_as_it_did(golden):
    store, expected, key = golden
    log = ReplicaLog.read(store, "web", key=key)
    found = {}
    for point in log.points:
        images = {disk.id: log.image(point.seq, disk.id) for disk in point.disks}
        found[str(point.seq)] = {
            disk: hashlib.sha256(read_whole(image.read, image.size)).hexdigest()
            for disk, image in images.items()
        }
        assert verify_point(log, point).findings == ()
    assert found == expected
    assert verify_logs(log).findings == ()


def test_today_s_writer_continues_it(golden, tmp_path):
    store, _, key = golden
    writer = attach(store, "web", owner="today", clock=FixedClock(), new_id=new_id, key=key)
    log = ReplicaLog.read(store, "web", key=key)
    disk = ModelDisk("vda", log.point().disk("vda").size)
    content = read_whole(log.image(log.point().seq, "vda").read, disk.size)
    disk.content[: disk.size] = content
    disk.write(1000, b"today")
    commit_point(writer, [disk], tmp_path)
    log = ReplicaLog.read(store, "web", key=key)
    assert read_whole(log.image(log.point().seq, "vda").read, disk.size) == disk.bytes


def test_the_encrypted_one_opens_by_its_passphrase_too_and_keeps_its_kernel(tmp_path):
    shutil.copytree(Path(__file__).parent / "golden" / "v1-encrypted", tmp_path / "golden")
    log = ReplicaLog.read(DirectoryStore(tmp_path / "golden" / "store"), "web", key=Passphrase("golden"))
    (kernel,) = log.point().machine.boot_files
    boot.fetch(log.place, kernel, tmp_path / "kernel")
    assert (tmp_path / "kernel").read_bytes() == b"golden kernel" * 1000
