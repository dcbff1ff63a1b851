"""A point's disk served by real nbdkit processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from standby.block.disk import DiskFailed
from standby.block.extent import Extent
from standby.block.nbd import NbdDisk
from standby.block.serve import serve
from standby.errors import InvalidRequest
from standby.recovery import image_source, serving
from standby.recovery.image_source import OPEN_POINT, open_point
from standby.recovery.serving import Source
from standby.replica.format import BLOCK, PAGE
from tests.recovery.conftest import NAME, ReadOnly, Replica
from tests.support.replicas import ModelDisk

pytestmark = pytest.mark.slow

SIZE = 24 * BLOCK + 5 * PAGE + 512
RANDOM = random.Random(11)


@pytest.fixture
def disk(replica: Replica) -> ModelDisk:
    disk = ModelDisk("vda", SIZE)
    disk.write(0, RANDOM.randbytes(6 * BLOCK))
    disk.write(SIZE - 3000, RANDOM.randbytes(3000))
    replica.commit(disk)
    disk.write(2 * BLOCK + PAGE, bytes(PAGE) + RANDOM.randbytes(PAGE))
    replica.commit(disk)
    return disk


def source(replica: Replica, folder: Path) -> Source:
    return Source(str(replica.root), NAME, replica.log().point().seq, "vda", folder / "0.nbd")


def read(socket: Path, *extents: Extent) -> bytes:
    disk = NbdDisk(socket, "")
    try:
        into = bytearray(sum(extent.length for extent in extents))
        disk.read_all(extents, memoryview(into))
        return bytes(into)
    finally:
        disk.close()


@pytest.fixture
def served(replica, disk, tmp_path):
    one = source(replica, tmp_path)
    serving.start([one])
    yield one
    serving.stop([one])


def test_a_served_point_is_the_disk_however_it_is_read(served, disk):
    assert read(served.socket, Extent(0, SIZE)) == disk.bytes
    for _ in range(40):
        offset = RANDOM.randrange(SIZE)
        length = min(RANDOM.choice([1, 512, PAGE, 3 * BLOCK + 1]), SIZE - offset)
        assert read(served.socket, Extent(offset, length)) == disk.bytes[offset : offset + length]
    nbd = NbdDisk(served.socket, "")
    for span in nbd.spans(Extent(0, SIZE)):
        if span.zero:
            assert not any(disk.bytes[span.offset : span.end])
    nbd.close()


def test_what_was_committed_later_is_not_in_it(served, replica, disk):
    before = disk.bytes
    disk.write(0, b"later" * 1000)
    replica.commit(disk)
    assert read(served.socket, Extent(0, SIZE)) == before


def test_a_server_is_found_by_its_socket_stopped_and_started_anew(served, disk):
    process = serving.process_of(served)
    assert process
    assert serving.dead([served]) == []
    assert serving.problems([served], "mend it") == []
    serving.stop([served])
    assert not process.alive()
    assert not served.socket.exists()
    assert serving.dead([served]) == [served]
    [finding] = serving.problems([served], "mend it")
    assert finding.blocks
    assert finding.fix == "mend it"
    serving.stop([served])
    serving.start([served])
    assert read(served.socket, Extent(0, 10)) == disk.bytes[:10]


def test_damage_is_an_error_to_the_reader_and_told_beside_the_socket(replica, tmp_path):
    disk = ModelDisk("vda", SIZE)
    disk.write(0, RANDOM.randbytes(8 * BLOCK))
    replica.commit(disk)
    # Random bytes are stored as they are: of this frame one block is bad, the others are not.
    replica.damage("vda", into=3 * BLOCK + 100)
    one = source(replica, tmp_path)
    serving.start([one])
    try:
        for _ in range(2):
            # Less than a block, and not the bad byte: no hash covers a page alone.
            with pytest.raises(DiskFailed):
                read(one.socket, Extent(3 * BLOCK + 8 * PAGE, PAGE))
        assert read(one.socket, Extent(0, 3 * BLOCK)) == disk.bytes[: 3 * BLOCK]
        assert read(one.socket, Extent(4 * BLOCK, BLOCK)) == disk.bytes[4 * BLOCK : 5 * BLOCK]
        [line] = one.damage.read_text().splitlines()
        told = json.loads(line)
        assert "block 3 (byte 196608)" in told["cause"]
        assert told["subject"].endswith(".hrl")
        [finding] = serving.problems([one], "mend it")
        assert "block 3" in finding.problem
        assert "older point" in finding.fix
    finally:
        serving.stop([one])


def test_a_point_that_is_not_there_is_refused_and_leaves_nothing(replica, disk, tmp_path):
    one = source(replica, tmp_path)
    with pytest.raises(InvalidRequest):
        serving.start([one._replace(seq=99)])
    with pytest.raises(InvalidRequest, match="has no disk vdz"):
        serving.start([one._replace(disk="vdz")])
    assert serving.dead([one]) == [one]
    assert not one.socket.exists()


def test_a_point_served_by_itself_is_held_as_long(replica, disk, tmp_path):
    arguments = {"store": str(replica.root), "replica": NAME, "disk": "vda"}
    with serve(OPEN_POINT, arguments, tmp_path / "s") as server:
        [hold] = replica.head.holds
        assert hold.seq == replica.log().point().seq
        assert f"process {server.pid}" in hold.by
        assert read(tmp_path / "s", Extent(0, SIZE)) == disk.bytes
        assert len(replica.head.holds) == 1, "a client that goes does not end it"
    assert replica.head.holds == ()


def test_a_disk_that_cannot_be_opened_leaves_no_hold(replica, disk):
    with pytest.raises(InvalidRequest, match="has no disk vdz"):
        open_point(str(replica.root), NAME, "newest", "vdz")
    assert replica.head.holds == ()


def test_a_store_that_cannot_be_written_is_served_without_a_hold(replica, disk, monkeypatch, capsys):
    monkeypatch.setattr(image_source, "open_store", lambda _address: ReadOnly(replica.store))
    image = open_point(str(replica.root), NAME, "newest", "vda")
    try:
        content = bytearray(SIZE)
        image.read(0, memoryview(content))
        assert bytes(content) == disk.bytes
        assert replica.head.holds == ()
        assert "without a hold" in capsys.readouterr().err
    finally:
        image.close()
    assert replica.head.holds == ()


def can_mount() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
def test_a_store_on_a_read_only_file_system_is_served_without_a_hold(replica, disk, tmp_path):
    script = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" || exit 99
exec "$2" -c '
import sys
from standby.recovery.image_source import open_point
image = open_point(sys.argv[1], "web", "newest", "vda")
content = bytearray(image.size)
image.read(0, memoryview(content))
image.close()
sys.stdout.buffer.write(content)' "$1"
"""
    command = ["unshare", "-m", "sh", "-c", script, "sh", replica.root, sys.executable]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 99:
        pytest.skip("this kernel does not let us mount")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == disk.bytes
    assert b"without a hold" in done.stderr
    assert replica.head.holds == ()
