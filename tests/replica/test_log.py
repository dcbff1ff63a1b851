"""Logs, byte by byte: docs/format.md section 3."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from standby.errors import Damaged, InvalidRequest
from standby.replica.format import (
    BLOCK,
    CHUNK_ROWS,
    FOOTER_SIZE,
    FRAME,
    HEADER_SIZE,
    NO_FRAME,
    PAGE,
    ROW,
    SECTION,
    LogHeader,
    block_hash,
)
from standby.replica.log import LogWriter, open_local
from standby.replica.pack import zero_rows
from tests.support.replicas import REPLICA, ModelDisk, new_log_id


def make_log(path: Path) -> ModelDisk:
    disk = ModelDisk("vda", 4 * BLOCK)
    disk.write(0, b"a" * PAGE)
    disk.write(BLOCK + 3 * PAGE, b"b" * 2 * PAGE)
    disk.write(BLOCK + 5 * PAGE, bytes(PAGE))
    disk.write(3 * BLOCK, bytes(BLOCK))
    disk.log(path)
    return disk


def test_sizes_are_those_of_the_format():
    assert (HEADER_SIZE, FOOTER_SIZE, ROW.itemsize, FRAME.itemsize, SECTION.itemsize) == (128, 64, 32, 16, 40)


def test_rows_tell_pages_zeros_and_the_hash_of_the_whole_block(tmp_path):
    disk = make_log(tmp_path / "a.hrl")
    log = open_local(tmp_path / "a.hrl")
    rows = log.all_rows()
    assert rows["block"].tolist() == [0, 1, 3]
    assert rows["present"].tolist() == [1, 0b111000, 0xFFFF]
    assert rows["zero"].tolist() == [0, 0b100000, 0xFFFF]
    assert rows["frame"].tolist() == [0, 0, NO_FRAME]
    assert rows["position"].tolist() == [0, 1, 0]
    assert [bytes(h) for h in rows["hash"]] == [
        block_hash(bytes(disk.content[n * BLOCK : (n + 1) * BLOCK])) for n in (0, 1, 3)
    ]
    assert log.frame(0) == b"a" * PAGE + b"b" * 2 * PAGE
    assert log.header.disk_id == "vda"
    assert log.header.disk_size == 4 * BLOCK


def test_the_sealed_log_is_described_as_it_lies_there(tmp_path):
    disk = ModelDisk("vda", BLOCK)
    disk.write(0, b"x" * PAGE)
    sealed = disk.log(tmp_path / "a.hrl")
    stored = sealed.path.read_bytes()
    assert (sealed.size, sealed.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert sealed.root == stored[-32:].hex()
    assert (sealed.rows, sealed.data) == (1, PAGE)


def test_of_a_block_appended_twice_the_last_row_counts(tmp_path):
    writer = LogWriter(tmp_path / "a.hrl", LogHeader(REPLICA, new_log_id(), "vda", BLOCK))
    for content in (b"1", b"2"):
        rows = np.zeros(1, ROW)
        rows["present"] = 1
        writer.append(memoryview(content * PAGE), rows)
    writer.seal()
    log = open_local(tmp_path / "a.hrl")
    (row,) = log.all_rows()
    assert log.frame(int(row["frame"])) == b"2" * PAGE


def test_a_long_index_is_cut_into_chunks(tmp_path):
    count = 2 * CHUNK_ROWS + 5
    writer = LogWriter(tmp_path / "a.hrl", LogHeader(REPLICA, new_log_id(), "vda", count * BLOCK))
    writer.append(memoryview(b""), zero_rows(np.arange(count, dtype=np.uint32)[::-1]))
    writer.seal()
    log = open_local(tmp_path / "a.hrl")
    assert [len(log.chunk(n)) for n in range(log.chunks)] == [CHUNK_ROWS, CHUNK_ROWS, 5]
    assert log.sections["first"].tolist() == [0, 0, CHUNK_ROWS, 2 * CHUNK_ROWS]
    assert log.all_rows()["block"].tolist() == list(range(count))


@pytest.mark.parametrize("keep", [0, 1, HEADER_SIZE, -1, -FOOTER_SIZE])
def test_a_truncated_log_is_told_as_such(tmp_path, keep):
    make_log(tmp_path / "a.hrl")
    stored = (tmp_path / "a.hrl").read_bytes()
    (tmp_path / "a.hrl").write_bytes(stored[:keep] if keep >= 0 else stored[: len(stored) + keep])
    with pytest.raises(Damaged, match=r"a\.hrl.*(truncated|footer)"):
        open_local(tmp_path / "a.hrl")


def test_every_flipped_bit_is_found_or_harmless(tmp_path):
    """A flip anywhere makes opening, the rows or the pages fail; or, inside a frame, change its pages."""
    path = tmp_path / "a.hrl"
    make_log(path)
    stored = path.read_bytes()
    good = open_local(path)
    rows, frame = good.all_rows(), good.frame(0)
    for at in range(len(stored)):
        for bit in (0, 5):
            damaged = bytearray(stored)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                log = open_local(path)
                same = bool((log.all_rows() == rows).all()) and log.frame(0) == frame
            except (Damaged, InvalidRequest):
                continue
            inside_frame = HEADER_SIZE <= at < int(good.sections[0]["offset"]) - 0
            assert not same or inside_frame, f"byte {at} bit {bit} went unnoticed"


def test_a_newer_format_is_refused_by_name(tmp_path):
    make_log(tmp_path / "a.hrl")
    stored = bytearray((tmp_path / "a.hrl").read_bytes())
    with pytest.raises(InvalidRequest, match="format 9.*newer standby"):
        LogHeader.unpack(bytes(stored[:8]) + b"\x09\x00" + bytes(stored[10:HEADER_SIZE]), "a.hrl")


def test_the_file_system_is_full(tmp_path):
    with pytest.raises(Exception, match=r"/dev/full|cannot be written"):
        LogWriter(Path("/dev/full"), LogHeader(REPLICA, new_log_id(), "vda", BLOCK))
