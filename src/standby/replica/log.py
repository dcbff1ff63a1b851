"""Writing and reading one log (docs/format.md section 3)."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

from standby.errors import Bug, Damaged, Recoverable, ResyncRequired
from standby.objects.durable import sync
from standby.replica.cipher import (
    CHUNK_KIND,
    DIRECTORY_KIND,
    FRAME_KIND,
    TABLE_KIND,
    TAG_BYTES,
    Cipher,
    LogCipher,
)
from standby.replica.format import (
    CHUNK_ROWS,
    FOOTER_SIZE,
    FRAME,
    FRAME_PAGES,
    HEADER_SIZE,
    PAGE,
    ROW,
    SECTION,
    BlockHash,
    LogFooter,
    LogHeader,
    Rows,
    block_hash,
    root_of,
    section_hash,
)

ZSTD_LEVEL = 1
_LOG_ID = slice(32, 48)
"""Where the header has it (format.md 3.1)."""

TAIL = 64 * 1024
"""How much of a log's end is read at first: mostly all but the frames."""


class SpoolFull(Recoverable):
    """No space is left where logs are written."""


class LogDamaged(ResyncRequired):
    """A sealed log is gone, or is no longer what was sealed. `path` is where it is, or was."""

    def __init__(self, log: SealedLog, cause: str) -> None:
        self.path = log.path
        super().__init__(
            f"a log that waited for the store {cause}",
            subject=f"disk {log.disk_id}, {log.path}",
            tried="nothing of it was committed",
            hint="nothing to do: the disk is compared with the replica; check the volume that the log lay on",
        )


class SealedLog(NamedTuple):
    """A log on local disk, complete and durable. data: raw bytes of its pages. sha256, root: hex."""

    path: Path
    log_id: bytes
    disk_id: str
    size: int
    sha256: str
    root: str
    rows: int
    data: int

    def check(self) -> None:
        """Read all of it again. Raises LogDamaged: committed, only a verification would find the damage."""
        try:
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise LogDamaged(self, "is gone") from error
        if found != self.sha256:
            raise LogDamaged(self, "is not what was sealed")


class _Codec(threading.local):
    """One compressor and decompressor a thread: they are costly to make and not to be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=False)
        self.decompressor = zstandard.ZstdDecompressor()


_codec = _Codec()


class LogWriter:
    """Writes one log. `append` may be called by several threads at once.

    A block may be appended more than once; the row appended last counts, so rounds of a cycle are appended
    one after the other, never interleaved.
    """

    def __init__(self, path: Path, header: LogHeader, cipher: Cipher | None = None) -> None:
        """cipher: of an encrypted replica; then nothing else is written than what it makes unreadable."""
        self.path = path
        self._header = header
        self._packed_header = header._replace(encrypted=cipher is not None).pack()
        self._cipher = cipher.log(header.log_id, self._packed_header) if cipher else None
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._frames: dict[int, tuple[int, int, int]] = {}
        self._rows: list[Rows] = []
        self._sha256 = hashlib.sha256()
        self._offset = 0
        self.data = 0
        self._file = _open_new(path)
        self._write(self._packed_header)

    @property
    def stored(self) -> int:
        """Bytes written so far."""
        return self._offset

    @property
    def rows(self) -> int:
        """Rows appended so far; they are kept in memory until the log is sealed."""
        return sum(map(len, self._rows))

    def append(self, pages: memoryview, rows: Rows) -> None:
        """Add a frame and the rows of the blocks in it.

        pages: at most FRAME_PAGES whole pages. rows: of ROW, their `position` relative to this frame; `frame`
        is filled in here. Rows of zero pages only carry NO_FRAME already. Raises SpoolFull.
        """
        count, rest = divmod(len(pages), PAGE)
        if rest or count > FRAME_PAGES:
            raise Bug(f"a frame of {len(pages)} bytes", subject=str(self.path))
        if not count:
            with self._lock:
                self._rows.append(rows)
            return
        self.append_packed(_codec.compressor.compress(pages), count, rows)

    def append_packed(self, packed: bytes, pages: int, rows: Rows) -> None:
        """As `append`, with a frame of so many pages that is compressed already."""
        # Each number is drawn once, so that no nonce of this log is used twice.
        number = next(self._numbers)
        packed = self._protected(FRAME_KIND, number, packed)
        with self._lock:
            rows["frame"][rows["zero"] != rows["present"]] = number
            self._frames[number] = (self._offset, len(packed), pages)
            self._rows.append(rows)
            self.data += pages * PAGE
            self._write(packed)

    def seal(self) -> SealedLog:
        """Write the index, make all durable and close. Raises SpoolFull, and then nothing is left."""
        try:
            root, rows = self._write_index()
            os.fsync(self._file)
        except BaseException:
            self.abandon()
            raise
        os.close(self._file)
        sync(self.path.parent)
        return SealedLog(
            self.path,
            self._header.log_id,
            self._header.disk_id,
            self._offset,
            self._sha256.hexdigest(),
            root.hex(),
            rows,
            self.data,
        )

    def abandon(self) -> None:
        """Close and remove the unfinished log."""
        os.close(self._file)
        self.path.unlink(missing_ok=True)

    def _write_index(self) -> tuple[bytes, int]:
        rows = self._final_rows()
        sections = np.zeros(1 + -(-len(rows) // CHUNK_ROWS), SECTION)
        for number in range(1, len(sections)):
            chunk = rows[(number - 1) * CHUNK_ROWS : number * CHUNK_ROWS]
            sections[number] = self._section(
                number, chunk.tobytes(), len(chunk), chunk["block"][0], chunk["block"][-1]
            )
        table = np.array([(*self._frames[n], 0) for n in range(len(self._frames))], FRAME)
        sections[0] = self._section(0, table.tobytes(), len(table), 0, 0)
        directory = self._protected(DIRECTORY_KIND, 0, sections.tobytes())
        footer = LogFooter(self._offset, len(directory), len(sections) - 1, len(rows)).pack()
        root = _root(self._cipher, self._packed_header, directory, footer)
        self._write(directory + footer + root)
        return root, len(rows)

    def _final_rows(self) -> Rows:
        if not self._rows:
            return np.zeros(0, ROW)
        rows = np.concatenate(self._rows)
        order = np.argsort(rows["block"], kind="stable")
        rows = rows[order]
        last = np.ones(len(rows), bool)
        last[:-1] = rows["block"][1:] != rows["block"][:-1]
        return rows[last]

    def _section(
        self, number: int, raw: bytes, count: int, first: int, last: int
    ) -> tuple[int, int, int, int, int, bytes]:
        stored = self._protected(*_section_nonce(number), _codec.compressor.compress(raw))
        offset = self._offset
        self._write(stored)
        return offset, len(stored), count, first, last, section_hash(stored)

    def _protected(self, kind: int, number: int, data: bytes) -> bytes:
        return self._cipher.encrypt(kind, number, data) if self._cipher else data

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            raise _spool_error(self.path, error) from error
        self._sha256.update(data)
        self._offset += len(data)


def _section_nonce(number: int) -> tuple[int, int]:
    """Kind and number of a directory's entry: the frame table, or an index chunk from 0 on."""
    return (CHUNK_KIND, number - 1) if number else (TABLE_KIND, 0)


def _root(cipher: LogCipher | None, header: bytes, directory: bytes, footer: bytes) -> bytes:
    return cipher.root(directory, footer) if cipher else root_of(header, directory, footer)


ReadRange = Callable[[int, int], bytes]
"""(offset, length) -> exactly those bytes of a log."""


class LogReader:
    """Reads one log through `read`; every section is checked before it is used (docs/protocol.md R6).

    subject: the log's name for messages. size: its length in bytes. root: what its record says, or "" to
    trust the footer. Thread-safe.
    """

    def __init__(
        self, read: ReadRange, subject: str, size: int, root: str = "", cipher: Cipher | None = None
    ) -> None:
        """cipher: of an encrypted replica, None of another. Raises Damaged, InvalidRequest."""
        self.subject = subject
        self._read = read
        tail_start = max(0, size - TAIL)
        tail = read(tail_start, size - tail_start)
        footer, stored_root = LogFooter.unpack(tail[-FOOTER_SIZE:], subject)
        self._tail, self._tail_start = tail, tail_start
        end = footer.directory_offset + footer.directory_length
        length = (footer.chunks + 1) * SECTION.itemsize + (TAG_BYTES if cipher else 0)
        header = self._bytes(0, HEADER_SIZE)
        if end != size - FOOTER_SIZE or footer.directory_length != length:
            raise Damaged("the footer does not fit the length of the log", subject=subject)
        directory = self._bytes(footer.directory_offset, footer.directory_length)
        self._cipher = cipher.log(header[_LOG_ID], header) if cipher else None
        expected = _root(self._cipher, header, directory, footer.pack())
        if stored_root != expected or (root and stored_root.hex() != root):
            raise Damaged("header, directory or footer are not those that were written", subject=subject)
        self.header = LogHeader.unpack(header, subject)
        self.block_hash: BlockHash = cipher.block_hash if cipher else block_hash
        self.rows = footer.rows
        self.sections = np.frombuffer(self._plain(DIRECTORY_KIND, 0, directory, "the directory"), SECTION)
        self.frames = np.frombuffer(self._section(0), FRAME)

    @property
    def chunks(self) -> int:
        return len(self.sections) - 1

    def chunk(self, number: int) -> Rows:
        """The rows of index chunk `number` (from 0). Raises Damaged."""
        return np.frombuffer(self._section(number + 1), ROW)

    def all_rows(self) -> Rows:
        """All rows, sorted by block. For logs that are known to be small."""
        return np.concatenate([self.chunk(n) for n in range(self.chunks)] or [np.zeros(0, ROW)])

    def frame(self, number: int) -> bytes:
        """The raw pages of a frame. Raises Damaged."""
        return self.unpack(number, self.packed(number))

    def packed(self, number: int) -> bytes:
        """A frame as it was compressed, which proves nothing of what is in it. Raises Damaged."""
        entry = self.frames[number]
        stored = self._bytes(int(entry["offset"]), int(entry["stored"]))
        return self._plain(FRAME_KIND, number, stored, f"frame {number}")

    def unpack(self, number: int, packed: bytes) -> bytes:
        """The raw pages of frame `number`, compressed. Raises Damaged."""
        length = int(self.frames[number]["pages"]) * PAGE
        raw = self._decompress(packed, length, f"frame {number}")
        if len(raw) != length:
            raise Damaged(f"frame {number} has {len(raw)} bytes", subject=self.subject)
        return raw

    def _section(self, number: int) -> bytes:
        entry = self.sections[number]
        stored = self._bytes(int(entry["offset"]), int(entry["stored"]))
        what = f"index chunk {number - 1}" if number else "the frame table"
        if section_hash(stored) != bytes(entry["hash"]):
            raise Damaged(f"{what} is not what was written", subject=self.subject)
        item = ROW if number else FRAME
        stored = self._plain(*_section_nonce(number), stored, what)
        return self._decompress(stored, int(entry["count"]) * item.itemsize, what)

    def _plain(self, kind: int, number: int, stored: bytes, what: str) -> bytes:
        if self._cipher is None:
            return stored
        plain = self._cipher.decrypt(kind, number, stored)
        if plain is None:
            raise Damaged(f"{what} is not what was written", subject=self.subject)
        return plain

    def _decompress(self, stored: bytes, length: int, what: str) -> bytes:
        try:
            return _codec.decompressor.decompress(stored, max_output_size=length)
        except zstandard.ZstdError as error:
            raise Damaged(f"{what} cannot be decompressed: {error}", subject=self.subject) from error

    def _bytes(self, offset: int, length: int) -> bytes:
        if offset >= self._tail_start:
            start = offset - self._tail_start
            return self._tail[start : start + length]
        return self._read(offset, length)


def open_local(path: Path, cipher: Cipher | None = None) -> LogReader:
    """Read a log that lies on local disk. Raises Damaged; OSError if the file is not there."""
    size = path.stat().st_size
    if size < HEADER_SIZE + FOOTER_SIZE:
        raise Damaged(f"the log has only {size} bytes: it is truncated", subject=str(path))

    def read(offset: int, length: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    return LogReader(read, str(path), size, cipher=cipher)


def _open_new(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _spool_error(path, error) from error


def _spool_error(path: Path, error: OSError) -> Recoverable:
    return SpoolFull(
        f"the log cannot be written: {error.strerror}",
        subject=str(path),
        tried="it was given up and removed; the next one takes the same changes along",
        hint=f"make room on the volume of {path.parent}",
    )
