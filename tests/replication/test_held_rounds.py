"""Rounds that are kept in memory enter the log in the order in which they were read."""

from __future__ import annotations

import random

import numpy as np
import pytest
from ulid import ULID

from standby.replica.format import BLOCK, PAGE, LogHeader, block_count
from standby.replica.image import Image
from standby.replica.log import LogWriter, open_local
from standby.replication import extract
from standby.replication.dirty import DirtyBlocks
from standby.replication.extract import Extractor
from standby.replication.known import KnownBlocks
from tests.support.disks import MemoryDisk

BLOCKS = 6


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("hold", [0, 2, 4, 100])
def test_the_last_round_of_a_page_wins_and_whole_blocks_are_right(tmp_path, monkeypatch, hold, seed):
    monkeypatch.setattr(extract, "UNIT_BLOCKS", 2)
    monkeypatch.setattr(extract, "_buffers", extract._Buffers())
    rng = random.Random(seed)
    disk = MemoryDisk(bytes(BLOCKS * BLOCK - 3 * PAGE))
    known = KnownBlocks.empty(tmp_path / "known", block_count(disk.size))
    log = LogWriter(tmp_path / "log", LogHeader(ULID().to_uuid(), ULID().bytes, "d", disk.size))
    extractor = Extractor(known, lambda: log, 2, hold=hold)
    for number in range(1, 6):
        blocks = sorted(rng.sample(range(BLOCKS), rng.choice((1, 2, BLOCKS))))
        masks = [rng.randrange(1, 1 << (13 if block == BLOCKS - 1 else 16)) for block in blocks]
        for block, mask in zip(blocks, masks, strict=True):
            for page in (page for page in range(16) if mask >> page & 1):
                at = block * BLOCK + page * PAGE
                disk.content[at : at + PAGE] = bytes([number]) * PAGE
        extractor.round(disk, DirtyBlocks(np.array(blocks, np.uint32), np.array(masks, np.uint16)))
    held = bytes(disk.content)
    disk.content[:] = b"\xff" * len(disk.content)  # it goes on being written
    extractor.finish()
    log.seal()
    image = Image([open_local(tmp_path / "log")], disk.size)
    found = bytearray(disk.size)
    image.read(0, memoryview(found))
    assert found == held
    known.close()
