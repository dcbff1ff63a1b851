"""Old disks brought to a point: only what differs is fetched, and interrupted anywhere it goes on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from standby.block import images
from standby.block.images import Format
from standby.recovery import difference
from standby.recovery.image_writer import opened
from standby.replica.format import BLOCK, PAGE
from tests.hypervisor.processes import contents
from tests.recovery.conftest import Replica
from tests.support.replicas import ModelDisk

pytestmark = pytest.mark.slow

SIZE = 40 * BLOCK + 3 * PAGE
"""Its last block is not whole."""


@pytest.fixture
def disk() -> ModelDisk:
    disk = ModelDisk("disk0", SIZE)
    rng = random.Random(7)
    for block in (0, 1, 2, 9, 10, 31, 40):
        disk.write(block * BLOCK, rng.randbytes(min(BLOCK, SIZE - block * BLOCK)))
    return disk


def overlay_on(folder: Path, content: bytes) -> Path:
    """An overlay on a raw image with this content."""
    (folder / "old.img").write_bytes(content)
    overlay = folder / "overlay.qcow2"
    images.create_overlay(overlay, folder / "old.img", Format.RAW, len(content))
    return overlay


def test_only_what_differs_is_fetched_and_the_old_disk_stays(replica: Replica, disk, tmp_path):
    seq = replica.commit(disk)
    old = bytearray(disk.bytes)
    old[BLOCK + 5] ^= 1  # a byte in a block of data
    old[10 * BLOCK : 11 * BLOCK] = bytes(BLOCK)  # data that the old disk lacks
    old[20 * BLOCK : 20 * BLOCK + 100] = b"x" * 100  # data where the point has zeros
    old[SIZE - 1] ^= 1  # the last byte, in the block that is not whole
    overlay = overlay_on(tmp_path, bytes(old))
    image = replica.log().image(seq, "disk0")
    seen = []
    with opened(overlay, Format.QCOW2, SIZE, writable=True) as target:
        assert difference.bring_to(image, target, seen.append) == 2 * BLOCK + SIZE % BLOCK
        assert contents(target) == disk.bytes
        # Taken up again it compares what is there, and fetches nothing.
        assert difference.bring_to(image, target) == 0
    assert sum(seen) == SIZE
    assert (tmp_path / "old.img").read_bytes() == bytes(old)


def test_what_changed_between_two_points_is_told_without_reading_the_disk(replica: Replica, disk, tmp_path):
    first = replica.commit(disk)
    overlay = overlay_on(tmp_path, disk.bytes)
    disk.write(2 * BLOCK + 100, b"changed")
    disk.write(9 * BLOCK, bytes(BLOCK))
    disk.write(33 * BLOCK, b"new")
    second = replica.commit(disk)
    log = replica.log()
    before, after = log.image(first, "disk0"), log.image(second, "disk0")
    with opened(overlay, Format.QCOW2, SIZE, writable=True) as target:
        for _ in range(2):
            assert difference.bring_on(before, after, target) == 2 * BLOCK
            assert contents(target) == disk.bytes
        assert difference.bring_to(after, target) == 0


def test_random_histories(replica: Replica, disk, tmp_path):
    """An old disk of any time before, brought to any point and on to the next, is that."""
    rng = random.Random(11)
    states, points = [disk.bytes], [replica.commit(disk)]
    for _ in range(6):
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(SIZE - 3 * PAGE)
            disk.write(at, rng.choice([bytes(3 * PAGE), rng.randbytes(rng.randrange(1, 3 * PAGE))]))
        states.append(disk.bytes)
        points.append(replica.commit(disk))
    log = replica.log()
    for number in range(4):
        was, to, on = sorted(rng.sample(range(len(points)), 3))
        folder = tmp_path / str(number)
        folder.mkdir()
        with opened(overlay_on(folder, states[was]), Format.QCOW2, SIZE, writable=True) as target:
            first, second = log.image(points[to], "disk0"), log.image(points[on], "disk0")
            difference.bring_to(first, target)
            assert contents(target) == states[to]
            difference.bring_on(first, second, target)
            assert contents(target) == states[on]
