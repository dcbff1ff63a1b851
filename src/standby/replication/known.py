"""What the replica has of a disk, as hashes in a local file (docs/protocol.md C5).

One 16-byte hash per block, at 16 times the block's number; a hole stands for a block of zeros. Behind them, a
mark: the newest entry of the books that the hashes may include. It is a copy of what the logs' indexes say and
can always be filled from them again, so a file that is cut short or of another time than the books is not used:
a hash too new or too old would keep a change from being sent.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final, Self

import numpy as np

from standby.errors import Recoverable
from standby.replica.format import HASH_BYTES, Rows
from standby.replica.log import LogReader
from standby.replica.pack import ZERO_HASH_ITEM, Blocks, Hashes
from standby.replication.books import BooksUnwritable
from standby.replication.dirty import block_runs

_HOLE = np.void(bytes(HASH_BYTES))
_MARK: Final = struct.Struct("<8sq")
_MAGIC: Final = b"standbyK"


class KnownLost(Recoverable):
    """The file is missing or is not the one that was written: fill it from the store."""


class KnownBlocks:
    """The hashes of one disk's blocks. `lookup` may be called by several threads at once."""

    def __init__(self, path: Path, blocks: int) -> None:
        """Open the file of a disk with so many blocks. Raises KnownLost."""
        self._path = path
        self._end = blocks * HASH_BYTES
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._lost("the file of known hashes is missing") from None
        try:
            if os.fstat(self._file).st_size != self._end + _MARK.size:
                raise self._lost("the file of known hashes has another length than it was made with")
            magic, self.mark = _MARK.unpack(os.pread(self._file, _MARK.size, self._end))
            if magic != _MAGIC:
                raise self._lost("the file of known hashes is another one")
        except BaseException:
            os.close(self._file)
            raise

    @classmethod
    def empty(cls, path: Path, blocks: int) -> Self:
        """A new file that knows nothing: every block counts as zeros. Raises BooksUnwritable."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(handle, _MARK.pack(_MAGIC, 0), blocks * HASH_BYTES)
            finally:
                os.close(handle)
            return cls(path, blocks)
        except OSError as error:
            raise _unwritable(path, error) from error

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
            self._write(part, run.offset * HASH_BYTES)
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
        self._write(raw.tobytes(), first * HASH_BYTES)

    def set_mark(self, entry: int) -> None:
        """Say that the hashes may include the books' entry of this number; before they do."""
        self._write(_MARK.pack(_MAGIC, entry), self._end)
        self.mark = entry

    def sync(self) -> None:
        """Return when all that was learned is durable."""
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def close(self) -> None:
        os.close(self._file)

    def _write(self, data: bytes | memoryview, offset: int) -> None:
        """All of it: a volume that fills up takes a part, and the hashes behind would stay old."""
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self._file, view, offset)
                view, offset = view[done:], offset + done
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _lost(self, cause: str) -> KnownLost:
        return KnownLost(
            cause,
            subject=str(self._path),
            tried="nothing is skipped by what it says",
            hint="nothing to do: it is filled from the store; leave the files of the state directory alone",
        )


def _unwritable(path: Path, error: OSError) -> BooksUnwritable:
    return BooksUnwritable(
        f"the known hashes cannot be written: {error.strerror}",
        subject=str(path),
        tried="nothing was forgotten; they are written again from the logs",
        hint="make room on this volume, or make it writable; it is tried again",
    )
