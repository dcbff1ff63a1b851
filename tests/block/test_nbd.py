"""NbdDisk against real servers: qemu-storage-daemon over every format, nbdkit for the faults."""

import os
import random
import subprocess
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from standby.block.copy import copy
from standby.block.disk import DiskFailed, DiskReadOnly, DiskUnreachable
from standby.block.extent import Extent, union
from standby.block.file import FileDisk
from standby.block.images import Format, create
from standby.block.nbd import REQUEST, NbdDisk
from standby.errors import InvalidRequest
from tests.support.nbd_servers import nbdkit, qemu_map, storage_daemon

pytestmark = pytest.mark.slow

MIB = 1 << 20
SIZE = 32 * MIB


@pytest.fixture
def daemon(tmp_path):
    with storage_daemon(tmp_path) as daemon:
        yield daemon


@pytest.fixture
def disk(daemon, tmp_path):
    """A writable raw disk of random bytes, with a hole in the second quarter."""
    path = tmp_path / "raw"
    with path.open("wb") as file:
        file.write(os.urandom(SIZE // 4))
        file.seek(SIZE // 2)
        file.write(os.urandom(SIZE // 2))
    daemon.add("d", path, "raw")
    disk = NbdDisk(daemon.socket, "d", patience=10)
    yield disk
    disk.close()


def read(disk, *extents):
    into = memoryview(bytearray(b"\xee") * sum(extent.length for extent in extents))
    disk.read_all(extents, into)
    return bytes(into)


def test_memory_that_was_read_into_or_written_from_is_let_go_of(disk):
    for move in (disk.read, disk.write):
        content = np.zeros(MIB, np.uint8)
        gone = weakref.ref(content)
        move(0, content.data)
        del content
        assert gone() is None


def some_extents(count, size, seed=1, most=3 * 4096):
    rng = random.Random(seed)
    return [Extent(rng.randrange(size - most), rng.randint(1, most)) for _ in range(count)]


@pytest.mark.parametrize("format", Format)
def test_what_is_written_is_read_back_whatever_the_format(daemon, tmp_path, format):
    path = tmp_path / "image"
    create(path, format, SIZE)
    daemon.add("d", path, format.driver)
    disk = NbdDisk(daemon.socket, "d")
    assert disk.size == SIZE
    data = random.Random(7).randbytes(3 * MIB + 512)
    disk.write(5 * MIB, memoryview(data))
    disk.zero(Extent(6 * MIB, MIB))
    disk.flush()
    expected = bytearray(SIZE)
    expected[5 * MIB : 5 * MIB + len(data)] = data
    expected[6 * MIB : 7 * MIB] = bytes(MIB)
    assert read(disk, Extent(0, SIZE)) == expected
    spans = list(disk.spans(Extent(0, SIZE)))
    assert sum(span.length for span in spans) == SIZE
    assert all(before.end == after.offset for before, after in pairwise(spans))
    for span in spans:
        assert not span.zero or not any(expected[span.offset : span.end])
    disk.close()


def test_scattered_extents_are_packed_in_the_order_given(disk, tmp_path):
    content = (tmp_path / "raw").read_bytes()
    extents = some_extents(5000, SIZE)
    assert read(disk, *extents) == b"".join(content[e.offset : e.end] for e in extents)


def test_a_large_read_is_split_and_small_neighbours_are_joined(disk, tmp_path):
    content = (tmp_path / "raw").read_bytes()
    assert read(disk, Extent(3, SIZE - 5)) == content[3:-2]
    neighbours = [Extent(offset, 4096) for offset in range(0, REQUEST * 2, 4096)]
    assert read(disk, *neighbours) == content[: REQUEST * 2]


def test_spans_are_what_qemu_img_maps(disk, tmp_path):
    expected = [(row["start"], row["length"], row["zero"]) for row in qemu_map(tmp_path / "raw", "raw")]
    assert list(disk.spans(Extent(0, SIZE))) == expected
    inside = list(disk.spans(Extent(SIZE // 4 - 512, 1024)))
    assert inside == [(SIZE // 4 - 512, 512, False), (SIZE // 4, 512, True)]


def test_reading_past_the_end_is_the_callers_error(disk):
    with pytest.raises(ValueError, match="does not lie within"):
        read(disk, Extent(SIZE - 1, 2))
    with pytest.raises(ValueError, match="the buffer 3"):
        disk.read_all([Extent(0, 4)], memoryview(bytearray(3)))


def test_the_dirty_bitmap_is_read_whole(daemon, disk, tmp_path):
    daemon.qmp("block-dirty-bitmap-add", node="d", name="b0", granularity=4096)
    extents = some_extents(300, SIZE)
    for extent in extents:
        disk.write(extent.offset, memoryview(os.urandom(extent.length)))
    daemon.qmp("block-dirty-bitmap-disable", node="d", name="b0")
    daemon.export("d", "snap", bitmaps=["b0"])
    snapshot = NbdDisk(daemon.socket, "snap", bitmap="b0")
    touched = union(
        Extent(e.offset // 4096 * 4096, -(-e.end // 4096) * 4096 - e.offset // 4096 * 4096) for e in extents
    )
    assert snapshot.dirty() == touched
    assert snapshot.clone().dirty() == touched
    with pytest.raises(InvalidRequest, match="no dirty bitmap 'b1'"):
        NbdDisk(daemon.socket, "snap", bitmap="b1").dirty()
    with pytest.raises(InvalidRequest, match="no dirty bitmap None"):
        disk.dirty()


def test_a_bitmap_larger_than_one_status_request(daemon, tmp_path):
    huge = 5 << 30
    path = tmp_path / "huge"
    create(path, Format.QCOW2, huge)
    daemon.add("h", path, "qcow2")
    daemon.qmp("block-dirty-bitmap-add", node="h", name="b", granularity=65536)
    disk = NbdDisk(daemon.socket, "h")
    for offset in ((1 << 30) - 4096, 3 << 30, huge - 4096):
        disk.write(offset, memoryview(bytes(b"x" * 8192)[: huge - offset]))
    daemon.qmp("block-dirty-bitmap-disable", node="h", name="b")
    daemon.export("h", "hs", bitmaps=["b"])
    assert NbdDisk(daemon.socket, "hs", bitmap="b").dirty() == [
        Extent((1 << 30) - 65536, 2 * 65536),
        Extent(3 << 30, 65536),
        Extent(huge - 65536, 65536),
    ]
    data = [span for span in disk.spans(Extent(0, huge)) if not span.zero]
    assert [(span.offset, span.length) for span in data] == [
        ((1 << 30) - 4096, 8192),
        (3 << 30, 8192),
        (huge - 4096, 4096),
    ]


def test_clones_read_side_by_side(disk, tmp_path):
    content = (tmp_path / "raw").read_bytes()

    def work(seed):
        clone = disk.clone()
        extents = some_extents(1000, SIZE, seed)
        got = read(clone, *extents)
        clone.close()
        return got == b"".join(content[e.offset : e.end] for e in extents)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(8))) == [True] * 8


def test_an_export_that_is_not_there_is_an_invalid_request(daemon):
    with pytest.raises(InvalidRequest, match="the server has no export 'nope'"):
        NbdDisk(daemon.socket, "nope")


def test_a_socket_that_is_not_there_is_unreachable(tmp_path):
    with pytest.raises(DiskUnreachable, match="nobody serves it"):
        NbdDisk(tmp_path / "none", "d")


def test_a_socket_path_too_long_says_so(tmp_path):
    with pytest.raises(InvalidRequest, match="too long for a Unix socket"):
        NbdDisk(tmp_path / ("x" * 120), "d")


def test_writing_to_what_is_served_read_only_is_refused(daemon, disk):
    daemon.export("d", "ro")
    other = NbdDisk(daemon.socket, "ro")
    for attempt in (lambda: other.write(0, memoryview(b"x" * 512)), lambda: other.zero(Extent(0, 512))):
        with pytest.raises(DiskReadOnly):
            attempt()


def test_a_server_killed_in_mid_read_is_unreachable(tmp_path):
    # A rate that needs minutes for this disk, so that the kill falls into the read.
    with nbdkit(tmp_path, "pattern", "1G", "rate=64M", filters=["rate"]) as server:
        disk = NbdDisk(server.socket, "")
        into = memoryview(bytearray(256 * MIB))
        threading.Timer(0.3, server.kill).start()
        with pytest.raises(DiskUnreachable, match="the connection broke") as caught:
            disk.read(0, into)
        assert f"NBD export '' on {server.socket}" in str(caught.value)
        with pytest.raises(DiskUnreachable, match="dropped earlier"):
            disk.read(0, into[:512])


def test_a_hung_server_hits_the_time_limit_and_is_dropped(tmp_path):
    with nbdkit(tmp_path, "memory", "16M", "delay-read=60", filters=["delay"]) as server:
        disk = NbdDisk(server.socket, "", patience=0.3)
        with pytest.raises(DiskUnreachable, match=r"did not answer a read within 0\.3 s"):
            read(disk, *(Extent(offset, 4096) for offset in range(0, MIB, 8192)))
        with pytest.raises(DiskUnreachable, match="dropped earlier"):
            read(disk, Extent(0, 1))


def test_every_request_and_the_handshake_have_the_time_limit(daemon, disk):
    waiting = NbdDisk(daemon.socket, "d", patience=0.3)
    daemon.hang()
    with pytest.raises(DiskUnreachable, match=r"did not answer the handshake within 0\.3 s"):
        NbdDisk(daemon.socket, "d", patience=0.3)
    with pytest.raises(DiskUnreachable, match=r"a flush within 0\.3 s"):
        waiting.flush()


def test_a_slow_server_that_moves_is_no_hung_one(tmp_path):
    with nbdkit(tmp_path, "memory", "16M", "delay-read=200ms", filters=["delay"]) as server:
        disk = NbdDisk(server.socket, "", patience=1.5, connections=1, depth=1)
        # Ten answers of 0.2 s: longer together than the limit for one.
        assert read(disk, *(Extent(offset, 512) for offset in range(0, 10240, 1024))) == bytes(5120)


def test_a_failed_read_names_its_offset_and_the_disk_goes_on(tmp_path):
    bad = tmp_path / "bad"
    bad.write_bytes(b"")
    with nbdkit(
        tmp_path,
        "memory",
        "16M",
        "error-pread=EIO",
        "error-pread-rate=100%",
        f"error-file={bad}",
        filters=["error"],
    ) as server:
        disk = NbdDisk(server.socket, "")
        with pytest.raises(DiskFailed, match="read of 4096 bytes at offset 8192 failed") as caught:
            read(disk, Extent(8192, 4096))
        assert (caught.value.extent, caught.value.errno) == (Extent(8192, 4096), 5)
        bad.unlink()
        assert read(disk, Extent(8192, 4096)) == bytes(4096)


def test_one_failing_extent_among_many_is_named(tmp_path):
    script = "case $4 in 1048576) echo EIO bad sector >&2; exit 1;; *) head -c $3 /dev/zero;; esac"
    with nbdkit(
        tmp_path, "eval", "get_size=echo 16M", f"pread={script}", "thread_model=echo parallel"
    ) as server:
        disk = NbdDisk(server.socket, "")
        with pytest.raises(DiskFailed, match="at offset 1048576 failed"):
            read(disk, *(Extent(number * 65536, 512) for number in range(32)))
        assert read(disk, Extent(0, 512)) == bytes(512)


def test_an_interrupted_read_leaves_nothing_that_still_writes_into_the_buffer(disk):
    def extents():
        yield Extent(0, 4096)
        raise KeyboardInterrupt

    class Interrupted(list):
        """Passes the checks, then is interrupted with a request in flight."""

        rounds = 0

        def __iter__(self):
            self.rounds += 1
            return extents() if self.rounds > 2 else super().__iter__()

    with pytest.raises(KeyboardInterrupt):
        disk.read_all(Interrupted([Extent(0, 4096)]), memoryview(bytearray(4096)))
    with pytest.raises(DiskUnreachable, match="an interruption"):
        read(disk, Extent(0, 1))


@pytest.mark.parametrize("format", Format)
def test_a_copy_into_an_image_is_what_qemu_img_compares_equal(daemon, tmp_path, format):
    source = tmp_path / "source"
    with source.open("wb") as file:
        for offset in (0, 5 * MIB + 512, 20 * MIB):
            file.seek(offset)
            file.write(os.urandom(MIB + 4096))
        file.truncate(SIZE)
    path = tmp_path / "image"
    create(path, format, SIZE)
    daemon.add("d", path, format.driver)
    target = NbdDisk(daemon.socket, "d")
    result = copy(FileDisk(source), target, workers=2)
    target.close()
    daemon.qmp("block-export-del", id="export-d", mode="hard")
    assert result.written < 4 * MIB
    compare = ["qemu-img", "compare", "-U", "-f", "raw", "-F", format.driver, str(source), str(path)]
    subprocess.run(compare, check=True)


def test_closing_twice_is_harmless(disk):
    disk.close()
    disk.close()
    with pytest.raises(DiskUnreachable, match="the disk was closed"):
        read(disk, Extent(0, 1))
