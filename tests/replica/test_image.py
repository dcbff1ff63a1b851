"""Images against a disk that was changed in the same way."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standby.block.extent import Extent
from standby.errors import Damaged
from standby.replica.format import BLOCK, PAGE, ZERO_BLOCK_HASH, block_hash
from standby.replica.image import Image
from standby.replica.log import open_local
from tests.support.replicas import ModelDisk, read_whole, whole

SIZE = 5 * BLOCK + 3 * PAGE + 512

write = st.tuples(
    st.integers(0, SIZE - 1),
    st.sampled_from([1, 512, PAGE, 3 * PAGE + 7, BLOCK, 2 * BLOCK + PAGE]),
    st.sampled_from([b"\0", b"x", b"yz1"]),
)
rounds = st.lists(st.lists(write, min_size=1, max_size=6), min_size=1, max_size=7)


def build(folder: Path, writes) -> tuple[ModelDisk, Image]:
    disk = ModelDisk("vda", SIZE)
    logs = []
    for number, some in enumerate(writes):
        for offset, length, fill in some:
            disk.write(offset, (fill * length)[: min(length, SIZE - offset)])
        logs.append(open_local(disk.log(folder / f"{number}.hrl").path))
    return disk, Image(logs, SIZE)


@settings(max_examples=80, deadline=None)
@given(rounds, st.integers(0, SIZE - 1), st.integers(1, SIZE))
def test_an_image_reads_as_the_disk_did(writes, offset, length):
    with tempfile.TemporaryDirectory() as folder:
        disk, image = build(Path(folder), writes)
        assert read_whole(image.read, SIZE) == disk.bytes
        length = min(length, SIZE - offset)
        part = bytearray(length)
        image.clone().read(offset, memoryview(part))
        assert part == disk.bytes[offset : offset + length]


@settings(max_examples=40, deadline=None)
@given(rounds)
def test_spans_cover_everything_and_never_hide_data(writes):
    with tempfile.TemporaryDirectory() as folder:
        disk, image = build(Path(folder), writes)
        at = 0
        for span in image.spans(whole(SIZE)):
            assert span.offset == at
            at = span.end
            if span.zero:
                assert not any(disk.bytes[span.offset : span.end])
        assert at == SIZE


@settings(max_examples=40, deadline=None)
@given(rounds)
def test_hashes_are_those_of_the_blocks(writes):
    with tempfile.TemporaryDirectory() as folder:
        disk, image = build(Path(folder), writes)
        want = [block_hash(bytes(disk.content[n * BLOCK : (n + 1) * BLOCK])) for n in range(6)]
        assert [bytes(h) for h in image.hashes(0, 6)] == want
        assert [bytes(h) for h in image.hashes(2, 3)] == want[2:5]


def test_what_no_log_mentions_is_zeros(tmp_path):
    image = Image([], 1 << 40)
    part = bytearray(b"x" * 100)
    image.read((1 << 40) - 100, memoryview(part))
    assert part == bytes(100)
    assert [s.zero for s in image.spans(Extent(0, 1 << 40))] == [True]
    assert bytes(image.hashes(7, 1)[0]) == ZERO_BLOCK_HASH


@settings(max_examples=40, deadline=None)
@given(rounds)
def test_no_block_of_a_whole_image_is_told_to_be_zeros_wrongly(writes):
    with tempfile.TemporaryDirectory() as folder:
        _disk, image = build(Path(folder), writes)
        assert image.wrong_zero_blocks(0, 6) == []


def test_a_block_of_zero_pages_under_another_hash_is_told(tmp_path):
    _disk, image = build(tmp_path, [[(0, 6 * BLOCK, b"yz1")], [(BLOCK, 2 * BLOCK, b"\0")]])
    rows = image._shared.region(0).rows.copy()
    rows["hash"][rows["block"] == 2] = b"w" * 16
    region = image._shared.region(0)._replace(rows=rows)
    image._shared._regions[0] = region
    assert image.wrong_zero_blocks(0, 6) == [(2, str(tmp_path / "1.hrl"))]
    assert image.wrong_zero_blocks(0, 2) == []


def test_scattered_extents_are_packed_in_the_order_asked(tmp_path):
    disk, image = build(tmp_path, [[(0, 2 * BLOCK + PAGE, b"yz1")], [(BLOCK, 512, b"x")]])
    extents = [Extent(BLOCK, 10), Extent(3, 5), Extent(BLOCK - 4, 8)]
    into = bytearray(23)
    image.read_all(extents, memoryview(into))
    assert into == b"".join(disk.bytes[e.offset : e.end] for e in extents)


def test_reading_past_the_end_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="disk of 100"):
        Image([], 100).read(99, memoryview(bytearray(2)))


def test_a_changed_page_is_named_by_log_and_block(tmp_path, monkeypatch):
    build(tmp_path, [[(0, BLOCK, b"yz1")], [(2 * BLOCK, BLOCK, b"x")]])
    lying = open_local(tmp_path / "1.hrl")
    monkeypatch.setattr(lying, "frame", lambda number: b"w" * BLOCK)
    image = Image([open_local(tmp_path / "0.hrl"), lying], SIZE)
    with pytest.raises(Damaged, match=r"1\.hrl: block 2 \(byte 131072\) is not what was written"):
        read_whole(image.read, SIZE)


def test_a_block_that_is_told_to_be_zeros_but_is_not_is_found(tmp_path):
    disk = ModelDisk("vda", SIZE)
    disk.write(0, b"x" * BLOCK)
    disk.write(BLOCK, bytes(BLOCK))
    log = open_local(disk.log(tmp_path / "a.hrl").path)
    assert Image([log], SIZE).wrong_zero_blocks(0, 6) == []
    lying = open_local(tmp_path / "a.hrl")
    rows = lying.all_rows().copy()
    rows["zero"][0] = rows["present"][0]
    lying.chunk = lambda number: rows
    assert Image([lying], SIZE).wrong_zero_blocks(0, 6) == [(0, str(tmp_path / "a.hrl"))]
