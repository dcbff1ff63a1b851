"""What the replica has of a disk, as hashes in a local file (docs/protocol.md C5).

One 16-byte hash per block, at 16 times the block's number; a hole stands for a block of zeros. It is a
copy of what the logs' indexes say and can always be filled from them again.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from standby.replica.format import HASH_BYTES, Rows
from standby.replica.log import LogReader
from standby.replica.pack import ZERO_HASH_ITEM, Blocks, Hashes
from standby.replication.dirty import block_runs

_HOLE = np.void(bytes(HASH_BYTES))


class KnownBlocks:
    """The hashes of one disk's blocks. `lookup` may be called by several threads at once."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        """create: begin with knowing nothing. Raises FileNotFoundError without, if the file is missing:
        an empty one in its place would claim that the replica has zeros everywhere."""
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._file = os.open(path, flags, 0o600)

    def lookup(self, blocks: Blocks) -> Hashes:
        """The hash that the replica has of each block (ascending numbers)."""
        found = np.zeros(len(blocks), f"V{HASH_BYTES}")
        done = 0
        for run in block_runs(blocks):
            raw = os.pread(self._file, run.length * HASH_BYTES, run.offset * HASH_BYTES)
            some = np.frombuffer(raw[: len(raw) // HASH_BYTES * HASH_BYTES], found.dtype)
            found[done : done + len(some)] = some
            done += run.length
        found[found == _HOLE] = ZERO_HASH_ITEM
        return found

    def learn(self, rows: Rows) -> None:
        """The replica has, or is sure to get, what these rows (ascending blocks) say."""
        hashes = rows["hash"].copy()
        hashes[hashes == ZERO_HASH_ITEM] = _HOLE
        raw = memoryview(hashes.tobytes())
        done = 0
        for run in block_runs(rows["block"]):
            part = raw[done * HASH_BYTES : (done + run.length) * HASH_BYTES]
            os.pwrite(self._file, part, run.offset * HASH_BYTES)
            done += run.length

    def learn_log(self, log: LogReader) -> None:
        for number in range(log.chunks):
            self.learn(log.chunk(number))

    def fill(self, first: int, hashes: Hashes) -> None:
        """Set consecutive hashes from block `first` on."""
        raw = hashes.copy()
        raw[raw == ZERO_HASH_ITEM] = _HOLE
        if (raw == _HOLE).all():
            return
        os.pwrite(self._file, raw.tobytes(), first * HASH_BYTES)

    def clear(self) -> None:
        """Know nothing: every block counts as zeros."""
        os.ftruncate(self._file, 0)

    def sync(self) -> None:
        """Return when all that was learned is durable."""
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)
