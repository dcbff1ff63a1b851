import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.block import copy as module
from standby.block.copy import copy
from standby.block.disk import DiskFailed
from standby.block.file import FileDisk
from standby.errors import InvalidRequest
from tests.support.disks import MemoryDisk

GRAIN = module.GRAIN

grains = st.lists(st.sampled_from([b"\0", b"\0\1", b"z"]), min_size=1, max_size=40)


def content_of(parts, tail):
    return b"".join((part * GRAIN)[:GRAIN] for part in parts) + b"t" * tail


@pytest.fixture(autouse=True, scope="module")
def _small_chunks():
    """Disks of a few hundred KiB shall take several chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", 3 * GRAIN)
        yield


@settings(deadline=None, max_examples=60)
@given(grains, st.integers(0, 5000), st.booleans(), st.booleans(), st.integers(1, 3), st.integers(0, 70000))
def test_the_target_reads_as_the_source_and_as_zeros_beyond(parts, tail, coy, used, workers, beyond):
    source = MemoryDisk(content_of(parts, tail), coy=coy)
    target = MemoryDisk((b"old" if used else b"\0\0\0") * ((source.size + beyond) // 3 + 1))
    done = []
    result = copy(source, target, workers=workers, progress=done.append)
    assert bytes(target.content[: source.size]) == bytes(source.content)
    assert not any(target.content[source.size :])
    assert result.written + result.zeroed == source.size == sum(done)
    assert source.open == target.open == [1]
    assert target.flushed


def test_a_target_known_to_be_new_is_not_made_zero_though_it_tells_nothing():
    source = MemoryDisk(bytes(5 * GRAIN) + b"z" * GRAIN)
    target = MemoryDisk(bytes(6 * GRAIN), coy=True)
    result = copy(source, target, new=True)
    assert target.content == source.content
    assert target.zeroed == []
    assert (result.written, result.zeroed) == (GRAIN, 5 * GRAIN)


def test_zeros_are_neither_read_nor_written_to_a_new_target():
    source = MemoryDisk(bytes(10 * GRAIN) + b"x" * GRAIN)
    target = MemoryDisk(bytes(11 * GRAIN))
    assert copy(source, target, workers=1) == (GRAIN, GRAIN, 10 * GRAIN)
    assert not target.zeroed


def test_zeros_that_the_source_does_not_tell_are_found():
    source = MemoryDisk(bytes(10 * GRAIN) + b"x" * GRAIN, coy=True)
    target = MemoryDisk(bytes(11 * GRAIN))
    assert copy(source, target, workers=1) == (11 * GRAIN, GRAIN, 10 * GRAIN)


def test_zeros_replace_what_an_old_target_holds():
    source = MemoryDisk(bytes(4 * GRAIN))
    target = MemoryDisk(b"old!" * GRAIN)
    assert copy(source, target, workers=1) == (0, 0, 4 * GRAIN)
    assert sum(extent.length for extent in target.zeroed) == 4 * GRAIN


def test_a_copy_onto_a_file_is_sparse(tmp_path):
    source = MemoryDisk(bytes(100 * GRAIN) + b"x" * GRAIN)
    path = tmp_path / "target"
    copy(source, FileDisk(path, size=source.size, writable=True), workers=2)
    assert path.read_bytes() == bytes(source.content)
    assert path.stat().st_blocks * 512 < 3 * GRAIN


@pytest.mark.parametrize("side", ["source", "target"])
def test_the_error_of_one_worker_stops_all_and_is_raised(side):
    # The bad byte is in the second chunk of a great many.
    source = MemoryDisk(b"x" * (500 * GRAIN), bad=4 * GRAIN if side == "source" else None)
    target = MemoryDisk(bytes(source.size), bad=4 * GRAIN if side == "target" else None)
    done = []
    failed = threading.Event()

    def progress(count):
        # Whoever got through with its chunk goes on only once the other has failed.
        done.append(count)
        failed.wait(0.05)

    with pytest.raises(DiskFailed, match=f"byte {4 * GRAIN} is bad"):
        copy(source, target, workers=2, progress=progress)
    assert len(done) < 20
    assert source.open == target.open == [1]


def test_an_error_in_progress_reaches_the_caller():
    def progress(_count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(MemoryDisk(b"x" * GRAIN), MemoryDisk(bytes(GRAIN)), workers=2, progress=progress)


def test_a_smaller_target_is_refused():
    with pytest.raises(InvalidRequest, match="the target has 4 bytes, the source 5"):
        copy(MemoryDisk(b"xxxxx"), MemoryDisk(b"xxxx"), workers=1)
