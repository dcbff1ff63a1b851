import os

import pytest

from standby.block.disk import DiskFailed, DiskReadOnly
from standby.block.extent import Extent, Span
from standby.block.file import FileDisk
from standby.errors import InvalidRequest

MIB = 1 << 20


@pytest.fixture
def image(tmp_path):
    """Data in the first and third of four MiB, holes in the others."""
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(os.urandom(MIB))
        file.seek(2 * MIB)
        file.write(os.urandom(MIB))
        file.truncate(4 * MIB)
    return path


def read(disk, *extents):
    into = memoryview(bytearray(sum(extent.length for extent in extents)))
    disk.read_all(extents, into)
    return bytes(into)


def test_scattered_extents_are_packed_in_the_order_given(image):
    content = image.read_bytes()
    extents = [Extent(2 * MIB + 5, 70), Extent(3, 4), Extent(4 * MIB - 1, 1)]
    assert read(FileDisk(image), *extents) == b"".join(content[e.offset : e.end] for e in extents)


def test_holes_are_zero_spans(image):
    assert list(FileDisk(image).spans(Extent(MIB // 2, 3 * MIB))) == [
        Span(MIB // 2, MIB // 2, False),
        Span(MIB, MIB, True),
        Span(2 * MIB, MIB, False),
        Span(3 * MIB, MIB // 2, True),
    ]


def test_what_is_zeroed_takes_no_space(image):
    before = image.stat().st_blocks
    disk = FileDisk(image, writable=True)
    disk.zero(Extent(0, MIB))
    disk.flush()
    assert read(disk, Extent(0, MIB)) == bytes(MIB)
    assert image.stat().st_blocks == before - MIB // 512


def test_zeroing_works_where_no_hole_can_be_made(image, monkeypatch):
    monkeypatch.setattr("standby.block.file._libc.fallocate64", lambda *_: -1)
    monkeypatch.setattr("ctypes.get_errno", lambda: 95)
    disk = FileDisk(image, writable=True)
    disk.zero(Extent(7, MIB + 11))
    content = image.read_bytes()
    assert content[7 : MIB + 18] == bytes(MIB + 11)
    assert any(content[:7])


def test_a_size_hides_what_follows_the_data(image):
    disk = FileDisk(image, size=4 * MIB - 512)
    assert disk.size == 4 * MIB - 512
    with pytest.raises(ValueError, match="does not lie within"):
        read(disk, Extent(4 * MIB - 512, 1))


def test_a_writable_disk_is_made_as_long_as_asked(tmp_path):
    disk = FileDisk(tmp_path / "new", size=MIB, writable=True)
    disk.write(MIB - 3, memoryview(b"end"))
    assert read(disk.clone(), Extent(MIB - 4, 4)) == b"\0end"


def test_a_file_shorter_than_asked_is_refused(image):
    with pytest.raises(InvalidRequest, match="has only 4194304 of the 5242880 bytes"):
        FileDisk(image, size=5 * MIB)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match=r"nothing: cannot be opened: No such file"):
        FileDisk(tmp_path / "nothing")


def test_writing_to_a_disk_opened_for_reading_is_refused(image):
    with pytest.raises(DiskReadOnly):
        FileDisk(image).write(0, memoryview(b"x"))


def test_a_file_cut_short_meanwhile_names_the_offset(image):
    disk = FileDisk(image)
    os.truncate(image, MIB)
    with pytest.raises(DiskFailed, match=f"at offset {MIB} failed") as caught:
        read(disk, Extent(MIB - 10, 20))
    assert caught.value.extent == Extent(MIB, 10)


def test_a_clone_outlives_its_original(image):
    disk = FileDisk(image)
    clone = disk.clone()
    disk.close()
    disk.close()
    assert read(clone, Extent(0, 9)) == image.read_bytes()[:9]
